package registry_test

import (
	"context"
	"errors"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/migrations"
	"github.com/repack-go/repack/registry"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func connect(t *testing.T, db *pgtest.Database) *pgx.Conn {
	t.Helper()
	conn, err := session.Connect(t.Context(), session.NewTarget(db.Config(t), session.NoPooler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// given returns a registry with a job for table app.t, OID 4711, that a runner has claimed.
func given(t *testing.T) (*pgtest.Database, *registry.Registry, *registry.Job, registry.Runner) {
	t.Helper()
	db := pgtest.New(t)
	if err := migrations.Apply(t.Context(), connect(t, db), "Odd registry"); err != nil {
		t.Fatal(err)
	}
	r, runner := registry.New("Odd registry"), registry.NewRunner()
	shadow := uint32(4712)
	job := &registry.Job{
		TableSchema: "app", TableName: "t", Source: 4711, Shadow: &shadow, Strategy: "change-log", Stage: registry.Setup, State: registry.Active,
		ShadowSchema: "s", OldSchema: "o", ChangeLog: "l", Capture: "c", KeyIndex: "k", Description: []byte(`{"owner": "me"}`),
		Options: registry.Options{KeepOld: true},
	}
	within(t, db, func(tx pgx.Tx) error {
		var err error
		if job.ID, err = r.NextID(t.Context(), tx); err != nil {
			return err
		}
		return r.Insert(t.Context(), tx, job, runner)
	})
	return db, r, job, runner
}

func within(t *testing.T, db *pgtest.Database, work func(tx pgx.Tx) error) {
	t.Helper()
	if err := pgx.BeginFunc(t.Context(), connect(t, db), work); err != nil {
		t.Fatal(err)
	}
}

func TestStages(t *testing.T) {
	t.Parallel()
	for i, a := range registry.Stages {
		for j, b := range registry.Stages {
			if a.Before(b) != (i < j) {
				t.Errorf("%s before %s: %t", a, b, a.Before(b))
			}
		}
		if got, err := registry.ParseStage(string(a)); got != a || err != nil {
			t.Errorf("ParseStage(%s) = %s, %v", a, got, err)
		}
	}
	for _, name := range []string{"", "Setup", "done"} {
		if _, err := registry.ParseStage(name); err == nil {
			t.Errorf("ParseStage(%q) is a stage", name)
		}
	}
}

func TestJobIsReadAsWritten(t *testing.T) {
	t.Parallel()
	db, r, job, runner := given(t)
	conn := connect(t, db)
	for name, find := range map[string]func() (*registry.Job, error){
		"by id": func() (*registry.Job, error) { return r.Get(t.Context(), conn, job.ID) },
		"by OID": func() (*registry.Job, error) {
			job, _, err := r.Find(t.Context(), conn, 4711, catalog.Name{Schema: "x", Name: "y"})
			return job, err
		},
		"by its name": func() (*registry.Job, error) {
			job, _, err := r.Find(t.Context(), conn, 0, catalog.Name{Schema: "app", Name: "t"})
			return job, err
		},
	} {
		got, err := find()
		if err != nil || got.ID != job.ID || got.Table() != job.Table() || *got.Shadow != *job.Shadow || !got.StageDone || !got.Options.KeepOld ||
			*got.RunnerHost != runner.Host || *got.RunnerPID != int32(os.Getpid()) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	// The shadow's OID is the table's only after the swap.
	if got, _, err := r.Find(t.Context(), conn, 4712, catalog.Name{}); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("by the shadow's OID: %+v, %v", got, err)
	}
	within(t, db, func(tx pgx.Tx) error {
		now := time.Now()
		job.SwappedAt = &now
		return r.Update(t.Context(), tx, job, runner.Claim)
	})
	if got, _, err := r.Find(t.Context(), conn, 4712, catalog.Name{}); err != nil || !got.Swapped() {
		t.Errorf("by the shadow's OID after the swap: %+v, %v", got, err)
	}
	within(t, db, func(tx pgx.Tx) error {
		job.State = registry.Done
		return r.Update(t.Context(), tx, job, runner.Claim)
	})
	if _, _, err := r.Find(t.Context(), conn, 4711, job.Table()); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("a job that is done is found: %v", err)
	}
	if list, err := r.List(t.Context(), conn); err != nil || len(list) != 1 || list[0].FinishedAt == nil {
		t.Errorf("list %v, %v", list, err)
	}
}

// TestAlterationIsReadAsWritten: nil is stored as NULL, and read as nil.
func TestAlterationIsReadAsWritten(t *testing.T) {
	t.Parallel()
	db, r, job, runner := given(t)
	conn := connect(t, db)
	for _, want := range []string{"", `{"asked": {"alter": ["DROP a"]}}`, ""} {
		job.Alteration = nil
		if want != "" {
			job.Alteration = []byte(want)
		}
		if err := r.Update(t.Context(), conn, job, runner.Claim); err != nil {
			t.Fatal(err)
		}
		got, err := r.Get(t.Context(), conn, job.ID)
		if err != nil || string(got.Alteration) != want || (got.Alteration == nil) != (want == "") {
			t.Errorf("alteration %q, %v; want %q", got.Alteration, err, want)
		}
		isNull := pgtest.Query[bool](t, conn, `SELECT alteration IS NULL FROM "Odd registry".job`)
		if isNull != (want == "") {
			t.Errorf("alteration %q is stored as NULL: %t", want, isNull)
		}
	}
}

// TestInsertedAlteration: Insert stores what a job changes, and NULL for nothing.
func TestInsertedAlteration(t *testing.T) {
	t.Parallel()
	db, r, job, runner := given(t)
	conn := connect(t, db)
	if got, err := r.Get(t.Context(), conn, job.ID); err != nil || got.Alteration != nil {
		t.Errorf("a job that changes nothing has %q, %v", got.Alteration, err)
	}
	const want = `{"asked": {"to_bigint": true}}`
	altered := *job
	altered.ID, altered.TableName, altered.Source, altered.Shadow, altered.Alteration = job.ID+1, "u", 4713, nil, []byte(want)
	within(t, db, func(tx pgx.Tx) error { return r.Insert(t.Context(), tx, &altered, runner) })
	if got, err := r.Get(t.Context(), conn, altered.ID); err != nil || string(got.Alteration) != want {
		t.Errorf("alteration %q, %v; want %s", got.Alteration, err, want)
	}
}

// TestOneJobATable checks that a table cannot have a second unfinished job.
func TestOneJobATable(t *testing.T) {
	t.Parallel()
	db, r, job, runner := given(t)
	err := pgx.BeginFunc(t.Context(), connect(t, db), func(tx pgx.Tx) error {
		second := *job
		second.ID++
		return r.Insert(t.Context(), tx, &second, runner)
	})
	if err == nil {
		t.Error("a table has two jobs")
	}
}

// TestClaimFencesOff checks that an earlier runner can commit nothing after a later
// runner has claimed the job.
func TestClaimFencesOff(t *testing.T) {
	t.Parallel()
	db, r, job, first := given(t)
	second := registry.NewRunner()
	fence := func(runner registry.Runner) error {
		return pgx.BeginFunc(t.Context(), connect(t, db), func(tx pgx.Tx) error { return r.Fence(t.Context(), tx, job.ID, runner.Claim) })
	}
	if err := fence(first); err != nil {
		t.Fatal(err)
	}
	tx, err := connect(t, db).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Fence(t.Context(), tx, job.ID, first.Claim); err != nil {
		t.Fatal(err)
	}
	claimed := make(chan error, 1)
	conn := connect(t, db)
	go func() { claimed <- r.Claim(context.Background(), conn, job, second) }()
	pgtest.WaitBlockedBy(t, db.Pool, tx.Conn().PgConn().PID())
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-claimed; err != nil {
		t.Fatal(err)
	}
	if err := fence(first); !errors.Is(err, registry.ErrStageMoved) {
		t.Errorf("fence of the first runner: %v", err)
	}
	if err := fence(second); err != nil {
		t.Errorf("fence of the second runner: %v", err)
	}
	for name, write := range map[string]func(tx pgx.Tx) error{
		"BeginStage": func(tx pgx.Tx) error { return r.BeginStage(t.Context(), tx, job.ID, first.Claim, registry.Backfill) },
		"EndStage":   func(tx pgx.Tx) error { return r.EndStage(t.Context(), tx, job.ID, first.Claim, registry.Setup) },
		"Update":     func(tx pgx.Tx) error { return r.Update(t.Context(), tx, job, first.Claim) },
	} {
		if err := pgx.BeginFunc(t.Context(), connect(t, db), write); !errors.Is(err, registry.ErrStageMoved) {
			t.Errorf("%s of the first runner: %v, want ErrStageMoved", name, err)
		}
	}
	if err := r.Release(t.Context(), conn, job.ID, first.Claim); err != nil {
		t.Error(err)
	}
	if got, _ := r.Get(t.Context(), conn, job.ID); got.RunnerPID == nil {
		t.Error("the first runner released the second's job")
	}
}

// TestNotesDoNotWait checks that records on which nothing depends are committed without
// waiting for the disk, and that the end of a stage waits.
func TestNotesDoNotWait(t *testing.T) {
	t.Parallel()
	db, r, job, runner := given(t)
	conn := connect(t, db)
	for _, c := range []struct {
		name, waits string
		write       func() error
	}{
		{"BeginStage", "off", func() error { return r.BeginStage(t.Context(), conn, job.ID, runner.Claim, registry.Backfill) }},
		{"NoteLocked", "off", func() error { return r.NoteLocked(t.Context(), conn, job.ID, runner.Claim, time.Second) }},
		{"Update", "on", func() error { return r.Update(t.Context(), conn, job, runner.Claim) }},
		{"Release", "off", func() error { return r.Release(t.Context(), conn, job.ID, runner.Claim) }},
	} {
		err := pgx.BeginFunc(t.Context(), conn, func(pgx.Tx) error {
			if err := c.write(); err != nil {
				return err
			}
			if got := pgtest.Query[string](t, conn, `SHOW synchronous_commit`); got != c.waits {
				t.Errorf("%s: synchronous_commit is %s, want %s", c.name, got, c.waits)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if got, err := r.Get(t.Context(), conn, job.ID); err != nil || got.Stage != registry.Backfill || got.LongestLockMS == nil || got.RunnerPID != nil {
		t.Errorf("job %+v, %v", got, err)
	}
}

func TestAdvisoryLock(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	first, second := connect(t, db), connect(t, db)
	const oid = 4_000_000_000 // beyond an int4
	if err := registry.TryLock(t.Context(), first, oid, "app.t"); err != nil {
		t.Fatal(err)
	}
	err := registry.TryLock(t.Context(), second, oid, "app.t")
	var busy *registry.BusyError
	host, _ := os.Hostname()
	if !errors.As(err, &busy) || busy.PID != int32(os.Getpid()) || busy.Host != host || time.Since(busy.Since) > time.Hour {
		t.Fatalf("second: %+v, %v", busy, err)
	}
	if held, err := registry.Held(t.Context(), second, oid); !held || err != nil {
		t.Errorf("Held = %t, %v", held, err)
	}
	if held, err := registry.Held(t.Context(), second, oid+1); held || err != nil {
		t.Errorf("Held of another = %t, %v", held, err)
	}
	if err := registry.Unlock(t.Context(), first, oid); err != nil {
		t.Fatal(err)
	}
	if err := registry.TryLock(t.Context(), second, oid, "app.t"); err != nil {
		t.Errorf("after Unlock: %v", err)
	}
}

func TestGaps(t *testing.T) {
	t.Parallel()
	db, r, job, _ := given(t)
	conn := connect(t, db)
	for _, c := range []struct {
		add  registry.Chunk
		want []registry.Chunk
	}{
		{registry.Chunk{First: 10, End: 20, Rows: 5, Took: time.Second}, []registry.Chunk{{First: 0, End: 10}, {First: 20, End: 100}}},
		{registry.Chunk{First: 20, End: 30, Rows: 5}, []registry.Chunk{{First: 0, End: 10}, {First: 30, End: 100}}},
		{registry.Chunk{First: 90, End: 100}, []registry.Chunk{{First: 0, End: 10}, {First: 30, End: 90}}},
		{registry.Chunk{First: 0, End: 10}, []registry.Chunk{{First: 30, End: 90}}},
		{registry.Chunk{First: 30, End: 90, Rows: 1}, []registry.Chunk{}},
	} {
		within(t, db, func(tx pgx.Tx) error {
			b := &pgx.Batch{}
			r.QueueChunk(b, job.ID, c.add)
			return tx.SendBatch(t.Context(), b).Close()
		})
		if got, err := r.Gaps(t.Context(), conn, job.ID, 100); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("gaps %v, %v; want %v", got, err, c.want)
		}
	}
	if got, err := r.Copied(t.Context(), conn, job.ID); err != nil || got.Blocks != 100 || got.Rows != 11 || got.Rate <= 0 {
		t.Errorf("copied %+v, %v", got, err)
	}
	within(t, db, func(tx pgx.Tx) error { return r.ForgetChunks(t.Context(), tx, job.ID) })
	if got, err := r.Gaps(t.Context(), conn, job.ID, 100); err != nil || len(got) != 1 || got[0].End != 100 {
		t.Errorf("gaps after all was forgotten: %v, %v", got, err)
	}
	if got, err := r.Gaps(t.Context(), conn, job.ID, 0); err != nil || len(got) != 0 {
		t.Errorf("gaps of an empty table: %v, %v", got, err)
	}
}
