// Package demo shows an online repack to somebody who has never seen one: a
// bloated table, an application that keeps writing to it, a real run of
// package repack, and then the proof that nothing was lost. The proof does
// not ask repack: the writers record outside the database what they have
// committed, and every row is compared with that.
//
// `repack demo` is its command line.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/repack"
)

// Options say what to show, and where.
type Options struct {
	// Rows is how many rows the table has; at least MinRows. Its file is made
	// for twice as many.
	Rows int64
	// Strategy is that of repack.Options.
	Strategy string
	// ToBigint makes the key of orders bigint, and the columns that refer to it. The key is
	// integer at first, and close to its end; the writers go beyond it.
	ToBigint bool
	// DSN is the server to use: schemas of the demo's own are made there, and
	// dropped at the end. Empty: a throwaway server.
	DSN string
	// Keep leaves everything as it is at the end, to look around in: a
	// throwaway server until ctx ends, on another one the schemas.
	Keep bool
	// Out receives plain text.
	Out io.Writer
	// Logger and Hooks are handed to the run.
	Logger *slog.Logger
	Hooks  repack.Hooks
}

// MinRows is the least number of rows: each writer needs customers of its own.
const MinRows = 1000

// ErrProof reports that rows are not what the writers committed, or that the
// writers have noticed the run. What is wrong has been printed.
var ErrProof = errors.New("the proof does not hold")

// How long the writers are alone, before the run and after it.
const (
	alone      = 2 * time.Second
	afterwards = time.Second
)

// Run shows one repack from the beginning to the end, and removes everything
// it has made, also when ctx ends before. It returns nil only if the proof
// holds, ErrProof if it does not, *repack.UsageError for options that make no
// sense, and pgserver.ErrNotFound where there is no server to run.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	p, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close(ctx, o.Keep && ctx.Err() == nil)) }()
	conn, err := pgx.ConnectConfig(ctx, p.config)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, patienceSQL); err != nil {
		return fmt.Errorf("set time-outs: %w", err)
	}

	s := &show{Options: o, place: p, conn: conn, seed: newSeed(o.Rows), out: printer{o.Out}}
	err = s.run(ctx)
	if o.Keep && ctx.Err() == nil {
		s.keep(ctx)
	}
	return err
}

// patienceSQL lifts limits that somebody else's server may have.
const patienceSQL = `
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_session_timeout = 0`

func (o Options) check() error {
	if o.Rows < MinRows {
		return &repack.UsageError{Err: fmt.Errorf("want at least %d rows, not %d", MinRows, o.Rows)}
	}
	_, err := repack.New(nil, repack.Options{Strategy: o.Strategy})
	return err
}

// show is one demo.
type show struct {
	Options
	place *place
	conn  *pgx.Conn // for what is done beside the writers
	seed  seed
	out   printer
}

func (s *show) run(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	before, err := s.look(ctx)
	if err != nil {
		return err
	}
	load, err := s.underLoad(ctx)
	if err != nil {
		return err
	}
	after, err := s.look(ctx)
	if err != nil {
		return err
	}
	s.out.title("Comparing every row ...")
	proof, err := s.prove(ctx, load, before, after)
	if err != nil {
		return err
	}
	s.out.sizes(before, after)
	s.out.waits(load)
	s.out.proof(proof)
	s.out.verdict(proof, load)
	if len(proof.failures()) > 0 {
		return ErrProof
	}
	return nil
}

// underLoad repacks while the writers write.
func (s *show) underLoad(ctx context.Context) (*load, error) {
	s.out.title(fmt.Sprintf("%d writers insert, update and delete from here on", writers))
	config := s.place.config.Copy()
	if s.ToBigint {
		config.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	load, err := startLoad(ctx, config, s.seed)
	if err != nil {
		return nil, err
	}
	defer load.stop(ctx)
	if s.ToBigint {
		s.out.line("they prepare no statements: one that returns a converted column would fail once after the swap")
	}
	s.out.line("for %s there is nobody but them, for comparison", alone)
	if err := sleep(ctx, alone); err != nil {
		return nil, err
	}
	if err := s.repack(ctx, load.clock); err != nil {
		return nil, err
	}
	load.clock.enter(after)
	s.out.line("for %s there is nobody but them again", afterwards)
	return load, sleep(ctx, afterwards)
}

func (s *show) repack(ctx context.Context, clock *clock) error {
	o := s.place.options
	o.Table, o.Strategy, o.Logger, o.Hooks = ordersTable, s.Strategy, s.Logger, s.Hooks
	command := fmt.Sprintf("repack run --table %s --strategy %s", ordersTable, s.Strategy)
	if s.ToBigint {
		command += " --to-bigint --cascade"
		o.ToBigint, o.Cascade, o.ShadowSchema = true, true, ""
		o.Hooks.AfterStage = s.beyondTheEnd
	}
	s.out.title(command)
	began := time.Now()
	o.Hooks.BeforeStage = func(ctx context.Context, stage repack.Stage) error {
		clock.enter(string(stage))
		s.out.at(began, fmt.Sprintf("%-16s  %s", stage, stages[stage]))
		if s.Hooks.BeforeStage != nil {
			return s.Hooks.BeforeStage(ctx, stage)
		}
		return nil
	}
	r, err := repack.New(s.place.config, o)
	if err != nil {
		return err
	}
	if err := r.Run(ctx); err != nil {
		return fmt.Errorf("run on %s: %w", ordersTable, err)
	}
	s.out.at(began, "done")
	return nil
}

// stages says in plain words what each one does.
var stages = map[repack.Stage]string{
	repack.PreValidate:    "is there anything that could not be carried over?",
	repack.Setup:          "make the copy's table, begin to capture changes",
	repack.Backfill:       "copy the rows, in chunks",
	repack.SyncSchema:     "build indexes and constraints on the copy",
	repack.PostSyncUpdate: "bring the copy up to date with the changes",
	repack.Swap:           "put the copy in the table's place",
	repack.CleanUp:        "drop the old table",
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// keep waits on a throwaway server, which cannot outlive us.
func (s *show) keep(ctx context.Context) {
	s.out.title("Kept")
	if s.place.server == nil {
		s.out.line("The schemas stay. To remove them: DROP SCHEMA %s CASCADE", s.place.schemaList())
		return
	}
	s.out.line("The server runs until you interrupt (Ctrl-C); then it is removed.")
	s.out.line("psql '%s'", s.place.config.ConnString())
	<-ctx.Done()
}
