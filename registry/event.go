package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Event is something that has happened to a job.
type Event struct {
	// Event is stage_started, stage_finished, failed, interrupted, stopped or job_finished.
	Event string `json:"event"`
	// Table is the name of the table, as SQL writes it.
	Table string    `json:"table"`
	Job   int64     `json:"job"`
	Stage Stage     `json:"stage"`
	At    time.Time `json:"at"`
	// Error is why the run has failed or was stopped.
	Error *string `json:"error"`
}

// eventsSQL lists the events of job $1 that have not been passed on. A stage that is begun again by
// another run starts once. A stage whose process was killed gets its end from the run that has
// continued it, so only the last of such rows counts.
const eventsSQL = `
WITH history AS (
    SELECT stage, began, ended, error,
           ended IS NOT NULL
           AND NOT EXISTS (SELECT FROM %[1]s later
                           WHERE  later.job_id = h.job_id AND later.stage = h.stage
                           AND    later.began > h.began AND later.began < h.ended) AS is_end
    FROM   %[1]s h
    WHERE  job_id = $1
), event AS (
    SELECT   min(began) AS began, 0 AS n, 'stage_started' AS event, stage, min(began) AS at, NULL AS error FROM history GROUP BY stage
    UNION    ALL
    SELECT   began, 1, 'stage_finished', stage, ended, NULL FROM history WHERE is_end AND error IS NULL
    UNION    ALL
    SELECT   began, 2, 'job_finished', stage, ended, NULL FROM history WHERE is_end AND error IS NULL AND stage = 'clean_up'
    UNION    ALL
    SELECT   began, 1,
             CASE WHEN error = 'interrupted' THEN error WHEN starts_with(error, 'stopped: ') THEN 'stopped' ELSE 'failed' END,
             stage, ended, error
    FROM     history
    WHERE    is_end AND error IS NOT NULL
)
SELECT   e.event, format('%%I.%%I', j.table_schema, j.table_name) AS table, j.id AS job, e.stage, e.at, e.error
FROM     event e
JOIN     %[2]s j ON j.id = $1
WHERE    NOT EXISTS (SELECT FROM %[3]s told WHERE told.job_id = $1 AND told.event = e.event AND told.stage = e.stage AND told.at = e.at)
ORDER BY e.began, e.n`

// Events lists what has happened to job id, in order, and has not been passed on.
func (r *Registry) Events(ctx context.Context, q catalog.Querier, id int64) ([]Event, error) {
	rows, err := q.Query(ctx, fmt.Sprintf(eventsSQL, r.history, r.job, r.event), id)
	if err != nil {
		return nil, fmt.Errorf("list events of job %d: %w", id, err)
	}
	events, err := pgx.CollectRows(rows, pgx.RowToStructByName[Event])
	if err != nil {
		return nil, fmt.Errorf("list events of job %d: %w", id, err)
	}
	return events, nil
}

const passedOnSQL = `
INSERT INTO %[1]s (job_id, event, stage, at)
VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING`

// PassedOn records that an event has been passed on.
func (r *Registry) PassedOn(ctx context.Context, q catalog.Querier, e Event) error {
	if _, err := q.Exec(ctx, fmt.Sprintf(passedOnSQL, r.event), e.Job, e.Event, e.Stage, e.At); err != nil {
		return fmt.Errorf("record that event %s of job %d was passed on: %w", e.Event, e.Job, err)
	}
	return nil
}
