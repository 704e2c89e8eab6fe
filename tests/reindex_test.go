package tests

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const indexedSQL = `
CREATE SCHEMA app;
CREATE TABLE app.t (id int PRIMARY KEY, a int, b int, during int4range, EXCLUDE USING gist (during WITH &&)) WITH (autovacuum_enabled = off);
INSERT INTO app.t SELECT g, g, g FROM generate_series(1, 20000) g;
CREATE INDEX bloated ON app.t (a); CREATE INDEX tight ON app.t (b);
CREATE TABLE app.whole (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE app.part PARTITION OF app.whole FOR VALUES FROM (0) TO (100)`

const indexOIDsSQL = `SELECT c.relname || ' ' || c.relfilenode FROM pg_class c WHERE relnamespace = 'app'::regnamespace AND relkind = 'i' ORDER BY 1`

// rebuilt names the indexes that work has given another file.
func rebuilt(t *testing.T, db *pgtest.Database, work func()) (names []string) {
	t.Helper()
	before := pgtest.Column[string](t, db.Pool, indexOIDsSQL)
	work()
	for _, file := range pgtest.Column[string](t, db.Pool, indexOIDsSQL) {
		if !slices.Contains(before, file) {
			names = append(names, file[:strings.LastIndexByte(file, ' ')])
		}
	}
	return names
}

const invalidSQL = `SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE NOT i.indisvalid ORDER BY 1`

// TestReindex rebuilds what is chosen, and nothing else.
func TestReindex(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, indexedSQL+`; UPDATE app.t SET a = -a; DELETE FROM app.t WHERE id > 2000; INSERT INTO app.t SELECT g, g, g FROM generate_series(2001, 2500) g`)
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, db.Pool, `SELECT n_tup_del >= 18000 FROM pg_stat_all_tables WHERE relid = 'app.t'::regclass`)
	}, "the server to count what was deleted")
	db.Exec(t, `VACUUM ANALYZE app.t`)
	db.Exec(t, `REINDEX INDEX app.tight`)
	for _, c := range []struct {
		args []string
		code int
		want []string
		says string
	}{
		{[]string{"app.t", "--min-bloat", "30%", "-T", "app.x*"}, 3, nil, "app.x*"},
		{[]string{"app.t", "--index", "tight"}, 0, []string{"tight"}, "tight: "},
		{[]string{"app.t", "--index", "tihgt"}, 3, nil, "tihgt"},
		{[]string{"app.t", "--min-bloat", "30%"}, 0, []string{"bloated", "t_pkey"}, "bloated: "},
		{[]string{"app.t", "--min-bloat", "30%"}, 0, nil, ""},
		{[]string{"--schema", "app"}, 0, []string{"bloated", "part_pkey", "t_pkey", "tight"}, "t_during_excl: skipped"},
		{nil, 2, nil, "no table given"},
	} {
		got := rebuilt(t, db, func() { cli(t, db, c.code, append([]string{"reindex"}, c.args...)...).says(t, c.says) })
		if !slices.Equal(got, c.want) {
			t.Errorf("reindex %v has rebuilt %v, want %v", c.args, got, c.want)
		}
	}
	if left := pgtest.Column[string](t, db.Pool, invalidSQL); len(left) > 0 {
		t.Errorf("invalid indexes are left: %v", left)
	}
}

// TestReindexWaitsForWriters leaves nothing while a writer is open, and drops what a rebuild has
// left that could not end. The invalid index of somebody else stays.
func TestReindexWaitsForWriters(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, indexedSQL+`; CREATE TABLE app.twice (n int); INSERT INTO app.twice VALUES (1), (1)`)
	if _, err := db.Connect(t).Exec(t.Context(), `CREATE UNIQUE INDEX CONCURRENTLY twice_ccnew ON app.twice (n)`); err == nil {
		t.Fatal("a unique index of equal values")
	}
	o := options(t, "", repack.ChangeLog)
	o.Table, o.MaxSnapshotWait = "", 300*time.Millisecond
	rebuild := repack.Rebuild{Selection: repack.Selection{Tables: []string{"app.t", "app.twice"}}, Indexes: []string{"tight"}}
	writer := begin(t, db.Connect(t), pgx.ReadCommitted)
	mustExec(t, writer, `UPDATE app.t SET b = 1 WHERE id = 1`)
	var locked *repack.LockTimeoutError
	if _, err := newRepack(t, db, o).Reindex(testContext(t), rebuild); !errors.As(err, &locked) || len(locked.Blockers) != 1 || locked.Blockers[0].PID != int32(pid(writer)) {
		t.Errorf("with an open writer: %v", err)
	}
	commit(t, writer)
	foreign := []string{"twice_ccnew"}
	if left := pgtest.Column[string](t, db.Pool, invalidSQL); !slices.Equal(left, foreign) {
		t.Errorf("invalid indexes: %v", left)
	}

	// A snapshot holds up the end of a rebuild. What it leaves is dropped.
	reader := stillSnapshot(t, db, pgx.RepeatableRead)
	if _, err := newRepack(t, db, o).Reindex(testContext(t), rebuild); !errors.As(err, &locked) {
		t.Errorf("with an older snapshot: %v", err)
	}
	if left := pgtest.Column[string](t, db.Pool, invalidSQL); !slices.Equal(left, foreign) {
		t.Errorf("invalid indexes: %v", left)
	}
	commit(t, reader)
	if results, err := newRepack(t, db, o).Reindex(testContext(t), rebuild); err != nil || len(results) != 1 || results[0].Result != "rebuilt" {
		t.Errorf("the next call: %+v, %v", results, err)
	}
	if left := pgtest.Column[string](t, db.Pool, invalidSQL); !slices.Equal(left, foreign) {
		t.Errorf("invalid indexes: %v", left)
	}

	// What a call has left that was killed is dropped by the next one.
	db.Exec(t, `INSERT INTO repack_registry.reindex (id, table_oid, index_oid, index_name, others)
		SELECT 1000, indrelid, indexrelid, 'tight', '{}' FROM pg_index WHERE indexrelid = 'app.tight'::regclass`)
	db.Exec(t, `INSERT INTO app.t VALUES (30000, 1, 1), (30001, 1, 1)`)
	if _, err := db.Connect(t).Exec(t.Context(), `CREATE UNIQUE INDEX CONCURRENTLY tight_ccnew ON app.t (a)`); err == nil {
		t.Fatal("a unique index of equal values")
	}
	if _, err := newRepack(t, db, o).Reindex(testContext(t), rebuild); err != nil {
		t.Errorf("after a call that was killed: %v", err)
	}
	if left := pgtest.Column[string](t, db.Pool, invalidSQL); !slices.Equal(left, foreign) {
		t.Errorf("invalid indexes: %v", left)
	}

	// A call that is interrupted drops what it leaves, if it can.
	reader = stillSnapshot(t, db, pgx.RepeatableRead)
	o.MaxSnapshotWait = queuing
	ctx, interrupt := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() {
		_, err := newRepack(t, db, o).Reindex(ctx, rebuild)
		done <- err
	}()
	pgtest.WaitBlockedBy(t, db.Pool, pid(reader))
	interrupt()
	commit(t, reader)
	if err := await(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted call: %v", err)
	}
	if left := pgtest.Column[string](t, db.Pool, invalidSQL); !slices.Equal(left, foreign) {
		t.Errorf("invalid indexes: %v", left)
	}
}
