package builds

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
)

// Running is an index of the shadow that is being built.
type Running struct {
	Index string `json:"index"`
	// Phase is in the server's words: see "CREATE INDEX Progress Reporting" in its
	// manual.
	Phase string `json:"phase"`
	// Percent is how much of the phase is done; nil if the server does not count it.
	Percent *float64 `json:"percent"`
}

// The view's index_relid is 0 until a build has committed, so the statement must tell
// which index it is. Only the job's own sessions build indexes on its shadow. The server
// sets the one of the two counters that belongs to the present phase.
const buildsSQL = `
SELECT   coalesce(a.query, '')  AS statement,
         p.phase                AS phase,
         (100.0 * CASE WHEN p.tuples_total > 0 THEN least(p.tuples_done, p.tuples_total)::float8 / p.tuples_total
                       WHEN p.blocks_total > 0 THEN least(p.blocks_done, p.blocks_total)::float8 / p.blocks_total
                  END)::float8  AS percent
FROM     pg_stat_progress_create_index p
JOIN     pg_stat_activity a ON a.pid = p.pid
WHERE    p.datname = current_database() AND p.relid = $1
ORDER BY a.xact_start, a.pid`

// Read lists the indexes that are being built on the shadow of job, in the order in which
// their builds began. If the role has no right to see the sessions of the role that
// builds, the list is empty.
func Read(ctx context.Context, q catalog.Querier, job *registry.Job) ([]Running, error) {
	builds := []Running{}
	if job.Stage != registry.SyncSchema || job.StageDone || job.Shadow == nil {
		return builds, nil
	}
	source, err := job.SourceDescription()
	var newer *catalog.NewerError
	if errors.As(err, &newer) { // the job of a newer version can still be shown
		return builds, nil
	}
	if err != nil {
		return nil, err
	}
	rows, err := q.Query(ctx, buildsSQL, *job.Shadow)
	if err != nil {
		return nil, fmt.Errorf("look for index builds of job %d: %w", job.ID, err)
	}
	type row struct {
		Statement, Phase string
		Percent          *float64
	}
	running, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	if err != nil {
		return nil, fmt.Errorf("look for index builds of job %d: %w", job.ID, err)
	}
	for _, r := range running {
		if index, ok := builtBy(source, job.ShadowTable(), r.Statement); ok {
			builds = append(builds, Running{Index: index, Phase: r.Phase, Percent: r.Percent})
		}
	}
	return builds, nil
}

// builtBy returns the index that a statement of sync_schema builds. The server shows only
// the first track_activity_query_size bytes of a statement.
func builtBy(source *catalog.Table, shadow catalog.Name, statement string) (string, bool) {
	if statement == "" {
		return "", false
	}
	for _, i := range source.Indexes {
		sql := i.CreateSQL(shadow)
		if c, ok := source.Constraint(i.Constraint); ok && !c.FromIndex() {
			sql = c.AddSQL(shadow)
		}
		if strings.HasPrefix(sql, statement) {
			return i.Name, true
		}
	}
	return "", false
}
