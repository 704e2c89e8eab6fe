package snapshots

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Standby is a standby that streams from the server now. It replays the ACCESS
// EXCLUSIVE lock of the swap.
type Standby struct {
	Name string `json:"name"` // its application_name
	// Feedback tells whether the standby reports its oldest snapshot
	// (hot_standby_feedback), so that the swap can wait for it.
	Feedback bool `json:"feedback"`
}

// standbysSQL lists the walsenders that are not connected to a database. Walsenders of
// logical decoding are connected to one, and replay no locks. A slot keeps what its standby
// reports; without a slot, the walsender keeps it. Every role can see both views.
const standbysSQL = `
SELECT   a.application_name AS name,
         a.backend_xmin IS NOT NULL
         OR EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = a.pid AND s.xmin IS NOT NULL) AS feedback
FROM     pg_stat_replication r
JOIN     pg_stat_activity a ON a.pid = r.pid
WHERE    a.datid IS NULL
ORDER BY a.application_name, a.pid`

// Standbys lists them.
func Standbys(ctx context.Context, q catalog.Querier) ([]Standby, error) {
	rows, err := q.Query(ctx, standbysSQL)
	if err != nil {
		return nil, fmt.Errorf("list standbys: %w", err)
	}
	standbys, err := pgx.CollectRows(rows, pgx.RowToStructByName[Standby])
	if err != nil {
		return nil, fmt.Errorf("list standbys: %w", err)
	}
	return standbys, nil
}
