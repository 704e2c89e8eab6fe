package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Verb is what a Command tells a run to do.
type Verb string

// The verbs. A run that is paused begins no piece of work until it is told to resume.
const (
	Pause   Verb = "pause"
	Resume  Verb = "resume"
	Set     Verb = "set"
	SwapNow Verb = "swap"
	Stop    Verb = "stop"
)

// Command is what somebody has told the run of a table, or of every table.
type Command struct {
	Verb      Verb
	Arguments Arguments
	By        string // user and host
	At        time.Time
	All       bool // every table
}

// Arguments are those of a Command. Which are used depends on the verb.
type Arguments struct {
	// Reason is why a run is paused.
	Reason string `json:"reason,omitempty"`
	// Now makes a pause end the chunk under way.
	Now bool `json:"now,omitempty"`
	// NotBefore is the time before which the swap does not begin.
	NotBefore *time.Time `json:"not_before,omitempty"`
	// Settings are options that the run takes up, by the names of their flags.
	Settings map[string]string `json:"settings,omitempty"`
}

// Control is what holds for a job, of all that its run was told.
type Control struct {
	Paused   *Command           // nil: not paused
	Swap     *Command           // nil: the swap was not asked for
	Stop     *Command           // nil: the present run was not told to stop
	Settings map[string]Setting // by flag
}

// Setting is an option that was changed for a job, and who changed it.
type Setting struct {
	Value string    `json:"value"`
	By    string    `json:"by"`
	At    time.Time `json:"at"`
}

// tellSQL records a command.
const tellSQL = `
INSERT INTO %[1]s (id, table_schema, table_name, command, arguments, told_by)
VALUES ($1, $2, $3, $4, $5, $6)`

// Tell records a command for the run of a table, or of every table if the table is nil. q
// must not be in a transaction: see NextID.
func (r *Registry) Tell(ctx context.Context, q catalog.Querier, table *catalog.Name, c Command) error {
	id, err := r.nextID(ctx, q, "control")
	if err != nil {
		return err
	}
	var schema, name *string
	if table != nil {
		schema, name = &table.Schema, &table.Name
	}
	if _, err := q.Exec(ctx, fmt.Sprintf(tellSQL, r.control), id, schema, name, c.Verb, c.Arguments, c.By); err != nil {
		return fmt.Errorf("record %s: %w", c.Verb, err)
	}
	return nil
}

// controlSQL lists, in order, the commands for job $1, and the pauses of every table. A
// command for a partitioned table is one for each of its jobs, and so is one for the table
// whose key a cascade makes bigint. What was told before the job began was for an earlier
// job. A stop is for the run that is at work when it is told.
const controlSQL = `
SELECT   c.command AS verb, c.arguments, c.told_by AS by, c.told_at AS at, c.table_name IS NULL AS "all"
FROM     %[1]s c
WHERE    c.table_name IS NULL
OR       EXISTS (SELECT FROM %[2]s j
                 WHERE  j.id = $1 AND j.table_schema = c.table_schema AND j.table_name = c.table_name
                 AND    c.told_at >= CASE c.command WHEN 'stop' THEN j.runner_since ELSE j.created_at END)
OR       EXISTS (SELECT FROM %[2]s j
                 JOIN   %[3]s p ON p.id = j.partitioned
                 WHERE  j.id = $1 AND p.table_schema = c.table_schema AND p.table_name = c.table_name
                 AND    c.told_at >= CASE c.command WHEN 'stop' THEN j.runner_since ELSE p.began END)
OR       EXISTS (SELECT FROM %[2]s j
                 JOIN   %[2]s m ON m.alteration #>> '{asked,group}' = j.alteration #>> '{asked,group}'
                 WHERE  j.id = $1
                 AND    m.state IN ('active', 'reverting', 'resetting', 'finishing')
                 AND    j.alteration #>> '{asked,group}'
                        = '"' || replace(c.table_schema, '"', '""') || '"."' || replace(c.table_name, '"', '""') || '"'
                 AND    c.told_at >= CASE c.command WHEN 'stop' THEN j.runner_since ELSE m.created_at END)
ORDER BY c.id`

// Control returns what holds for job id. With id 0 these are the pauses of every table.
func (r *Registry) Control(ctx context.Context, q catalog.Querier, id int64) (Control, error) {
	rows, err := q.Query(ctx, fmt.Sprintf(controlSQL, r.control, r.job, r.partitioned), id)
	if err != nil {
		return Control{}, fmt.Errorf("read what job %d was told: %w", id, err)
	}
	told, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[Command])
	if err != nil {
		return Control{}, fmt.Errorf("read what job %d was told: %w", id, err)
	}
	return holds(told), nil
}

// holds returns what holds after commands. The last word counts.
func holds(told []*Command) Control {
	c := Control{Settings: map[string]Setting{}}
	for _, t := range told {
		switch t.Verb {
		case Pause:
			c.Paused = t
		case Resume:
			c.Paused = nil
		case SwapNow:
			c.Swap = t
		case Stop:
			c.Stop = t
		case Set:
			for flag, value := range t.Arguments.Settings {
				c.Settings[flag] = Setting{Value: value, By: t.By, At: t.At}
			}
		}
	}
	return c
}
