package repack

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/migrations"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/stages/builds"
	"github.com/repack-go/repack/strategy"
)

// Status says where the latest job of a table stands.
type Status struct {
	Job      int64  `json:"job"`
	Table    string `json:"table"` // as SQL writes it
	Schema   string `json:"schema"`
	Name     string `json:"name"`
	Strategy string `json:"strategy"`
	// Stage is the latest stage that was begun. StageDone says whether it is complete.
	Stage     Stage `json:"stage"`
	StageDone bool  `json:"stage_done"`
	// State is one of: running, stopped (after Options.Until, or as told), interrupted,
	// failed, lost (the process was silent for 30 s, and has not said that it ends),
	// reverting, resetting, done, reverted, reset.
	State      string `json:"state"`
	Swapped    bool   `json:"swapped"`
	RowsCopied int64  `json:"rows_copied"`
	RowsTotal  int64  `json:"rows_total"` // an estimate
	// PendingChanges is the number of rows in the change log.
	PendingChanges int64    `json:"pending_changes"`
	ChangeLogBytes int64    `json:"change_log_bytes"`
	Rate           float64  `json:"rate"`        // rows per second
	ETASeconds     *float64 `json:"eta_seconds"` // seconds until the backfill ends; nil: not known
	// IndexBuilds are the indexes that are being built. The server does not show them
	// to a role that lacks the privileges of the role that runs the job.
	IndexBuilds []IndexBuild `json:"index_builds"`
	LastError   *string      `json:"last_error"`
	// Alteration is what the job changes, one difference in each line.
	Alteration []string `json:"alteration"`
	// CascadeOf is the table whose key is made bigint, if this table is altered only because
	// it refers to that key. It is empty otherwise.
	CascadeOf string `json:"cascade_of"`
	// Revertible says, after the swap, whether Revert can put the old table back: "yes", or
	// "no" with the reason, such as rows that the old table cannot take. It is nil before the
	// swap and after clean_up has begun.
	Revertible *string `json:"revertible"`
	// HeartbeatAt is when the process at work has last recorded that it is alive, which it
	// does every five seconds. It is nil before the first time.
	HeartbeatAt *time.Time `json:"heartbeat_at"`
	// WaitingFor is what keeps the process from work, such as a pause, and WaitingSince since
	// when. They are nil if nothing does, and are as old as HeartbeatAt.
	WaitingFor   *string    `json:"waiting_for"`
	WaitingSince *time.Time `json:"waiting_since"`
	// Batch says how far the run over several tables is that the table belongs to. It is nil if
	// there is none, or if it has ended.
	Batch *BatchStatus `json:"batch"`
	// Paused says who has paused the table, or every table. It is nil if it is not paused.
	Paused *Paused `json:"paused"`
	// Settings are options that were changed while the job was under way, by the names of
	// their flags.
	Settings map[string]Setting `json:"settings"`
	// LongestLockMS is the longest time, in milliseconds, for which a transaction of
	// the job blocked the application: from the request for its first strong lock to
	// its commit. It is nil before the first such transaction.
	LongestLockMS *int64  `json:"longest_lock_ms"`
	Runner        *Runner `json:"runner"` // nil: no process works on it

	StartedAt  time.Time  `json:"started_at"`
	UpdatedAt  time.Time  `json:"updated_at"`
	FinishedAt *time.Time `json:"finished_at"`
}

// Paused is a pause of a table, or of every table.
type Paused struct {
	By     string    `json:"by"` // user@host
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
	All    bool      `json:"all"` // every table is paused
}

// Setting is an option that was changed for a job, and who changed it.
type Setting = registry.Setting

// Runner is the process that works on a job.
type Runner struct {
	Host  string    `json:"host"`
	PID   int32     `json:"pid"`
	Since time.Time `json:"since"`
}

// Status returns the latest job of each table, or of Options.Table, or of the
// partitions of Options.Table if it is partitioned. In a database without a registry
// the list is empty.
//
// It returns *NoJobError if Options.Table has no job or does not exist, and
// *PrivilegesError if the role may not read the registry. It creates nothing, takes no
// lock on a table of the application, and may be called at any time.
func (r *Repack) Status(ctx context.Context) ([]Status, error) {
	list, err := r.list(ctx)
	if grants := r.lacking(ctx, err); len(grants) > 0 {
		return nil, &PrivilegesError{Grants: grants}
	}
	return list, err
}

func (r *Repack) list(ctx context.Context) ([]Status, error) {
	v, err := r.visitAny(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close(ctx)
	conn := v.conn
	list := []Status{}
	exists, err := r.registry.Exists(ctx, conn)
	if err != nil || !exists && r.options.Table == "" {
		return list, err
	}
	if !exists {
		return nil, r.noJob(ctx, conn, v.oid, v.name)
	}
	if err := r.mayRead(ctx, conn, nil); err != nil {
		return nil, err
	}
	current, err := migrations.Current(ctx, conn, r.options.RegistrySchema)
	if err != nil {
		return nil, err
	}
	jobs, err := r.registry.List(ctx, conn)
	if err != nil {
		return nil, err
	}
	wanted := func(*registry.Job) bool { return true }
	none := func() error { return nil }
	if r.options.Table != "" {
		names := map[catalog.Name]bool{v.name: true}
		if v.partitioned {
			p, err := r.overPartitions(ctx, v)
			if err != nil {
				return nil, err
			}
			for _, l := range p.partitions {
				names[l.Name] = true
			}
		}
		wanted = func(j *registry.Job) bool { return names[j.Table()] }
		none = func() error { return r.noJob(ctx, conn, v.oid, v.name) }
	}
	jobs = slices.DeleteFunc(jobs, func(j *registry.Job) bool { return !wanted(j) })
	if len(jobs) == 0 {
		return list, none()
	}
	if err := r.mayRead(ctx, conn, jobs); err != nil {
		return nil, err
	}
	var open []registry.Batch
	if current {
		if open, err = r.registry.OpenBatches(ctx, conn, nil); err != nil {
			return nil, err
		}
	}
	for _, job := range jobs {
		s, err := r.status(ctx, conn, job)
		s.Batch = batchOf(open, job.Table())
		if err == nil && current && job.FinishedAt == nil { // an older registry has no commands
			err = r.addControl(ctx, conn, job, &s)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// visitAny is visit, or only a connection if no table was given.
func (r *Repack) visitAny(ctx context.Context) (*visit, error) {
	if r.options.Table != "" {
		return r.visit(ctx)
	}
	conn, err := session.Connect(ctx, r.config)
	return &visit{conn: conn}, err
}

func (r *Repack) status(ctx context.Context, conn *pgx.Conn, job *registry.Job) (Status, error) {
	s := Status{
		Job: job.ID, Table: job.Table().String(), Schema: job.TableSchema, Name: job.TableName,
		Strategy: job.Strategy, Stage: job.Stage, StageDone: job.StageDone, Swapped: job.Swapped(), IndexBuilds: []IndexBuild{}, Alteration: []string{},
		Settings:      map[string]Setting{},
		LongestLockMS: job.LongestLockMS, LastError: job.Error, StartedAt: job.CreatedAt, UpdatedAt: job.UpdatedAt, FinishedAt: job.FinishedAt,
	}
	copied, err := r.registry.Copied(ctx, conn, job.ID)
	if err != nil {
		return s, err
	}
	s.RowsCopied, s.Rate, s.RowsTotal = copied.Rows, copied.Rate, copied.Rows
	if job.Blocks != nil && copied.Blocks < *job.Blocks {
		s.extrapolate(job, copied)
	}
	held, err := registry.Held(ctx, conn, job.Source)
	if err != nil {
		return s, err
	}
	if held && job.RunnerHost != nil && job.RunnerPID != nil && job.RunnerSince != nil {
		s.Runner = &Runner{Host: *job.RunnerHost, PID: *job.RunnerPID, Since: *job.RunnerSince}
	}
	s.State = state(job, s.Runner != nil)
	alteration, err := alter.Decode(job.Alteration)
	if err != nil {
		return s, fmt.Errorf("job %d: %w", job.ID, err)
	}
	if s.Alteration, err = alteration.Lines(); err != nil {
		return s, err
	}
	if alteration != nil {
		s.CascadeOf = alteration.Asked.Group
	}
	if job.FinishedAt != nil {
		return s, nil
	}
	if s.PendingChanges, err = pending(ctx, conn, job); err != nil {
		return s, err
	}
	if s.ChangeLogBytes, err = stages.LogBytes(ctx, conn, job); err != nil {
		return s, err
	}
	if s.IndexBuilds, err = builds.Read(ctx, conn, job); err != nil {
		return s, err
	}
	s.Revertible, err = revertible(ctx, conn, job, alteration)
	return s, err
}

// extrapolate estimates the rest of the backfill from blocks. Their number is exact,
// while a number of rows comes from statistics that may be old.
func (s *Status) extrapolate(job *registry.Job, copied registry.Copied) {
	s.RowsTotal = *job.RowEstimate
	if copied.Blocks > 0 {
		s.RowsTotal = copied.Rows * *job.Blocks / copied.Blocks
	}
	if copied.Rate > 0 && job.Stage == Backfill {
		eta := float64(s.RowsTotal-copied.Rows) / copied.Rate
		s.ETASeconds = &eta
	}
}

func state(job *registry.Job, running bool) string {
	switch {
	case job.State.Over():
		return string(job.State)
	case running:
		return "running"
	case job.State == registry.Reverting, job.State == registry.Resetting:
		return string(job.State)
	case job.Interrupted:
		return "interrupted"
	case job.Error != nil:
		return "failed"
	default:
		return "stopped"
	}
}

// pending counts the rows of the change log. The change log may just have been dropped.
func pending(ctx context.Context, conn *pgx.Conn, job *registry.Job) (n int64, err error) {
	log := catalog.Name{Schema: job.ShadowSchema, Name: job.ChangeLog}
	var there bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, log.String()).Scan(&there); err != nil {
		return 0, fmt.Errorf("look up change log of job %d: %w", job.ID, err)
	}
	if !there {
		return 0, nil
	}
	return (&strategy.Link{Log: log}).Pending(ctx, conn)
}
