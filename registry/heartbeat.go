package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// HeartbeatEvery is how often a run records that it is at work. A run is lost if it has been
// silent for Silence.
const (
	HeartbeatEvery = 5 * time.Second
	Silence        = 30 * time.Second
)

// Heartbeat is what a run has recorded last of itself.
type Heartbeat struct {
	At time.Time
	// WaitingFor is what keeps the run from work, and WaitingSince since when. They are nil
	// if it is at work.
	WaitingFor   *string
	WaitingSince *time.Time
}

// beatSQL is no update of the job, whose row a transaction of the run may hold for long. It
// changes nothing unless the claim is $2.
const beatSQL = `
WITH asynchronous AS (
    ` + asynchronousSQL + `
)
INSERT INTO %[1]s AS beat (job_id, at, waiting_for, waiting_since)
SELECT j.id, clock_timestamp(), $3, $4
FROM   %[2]s j, asynchronous
WHERE  j.id = $1 AND j.claim = $2
ON CONFLICT (job_id) DO UPDATE
SET    at = excluded.at, waiting_for = excluded.waiting_for, waiting_since = excluded.waiting_since`

// Beat records that the run of job id is at work. It does so in a transaction of its own, which
// does not wait for the disk. If claim is not the job's, it changes nothing.
func (r *Registry) Beat(ctx context.Context, q catalog.Querier, id int64, claim string, beat Heartbeat) error {
	if _, err := q.Exec(ctx, fmt.Sprintf(beatSQL, r.heartbeat, r.job), id, claim, beat.WaitingFor, beat.WaitingSince); err != nil {
		return fmt.Errorf("record that job %d is at work: %w", id, err)
	}
	return nil
}

// heartbeatSQL reads the heartbeat of the run that has the job now.
const heartbeatSQL = `
SELECT b.at, b.waiting_for, b.waiting_since
FROM   %[1]s b
JOIN   %[2]s j ON j.id = b.job_id
WHERE  b.job_id = $1 AND b.at >= j.runner_since`

// Heartbeat returns the last heartbeat of the run that works on job id. It returns
// ErrNotFound if that run has recorded none.
func (r *Registry) Heartbeat(ctx context.Context, q catalog.Querier, id int64) (beat Heartbeat, err error) {
	rows, err := q.Query(ctx, fmt.Sprintf(heartbeatSQL, r.heartbeat, r.job), id)
	if err == nil {
		beat, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Heartbeat])
	}
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return beat, fmt.Errorf("read the heartbeat of job %d: %w", id, err)
	}
	return beat, nil
}
