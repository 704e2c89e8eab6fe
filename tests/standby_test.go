package tests

import (
	"context"
	wire "encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/repack-go/repack/internal/tooling/pgserver"
	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// feedback is a standby as the primary sees it: a connection that streams WAL by
// slot and says which snapshot is the oldest there ("Hot standby feedback message").
func feedback(t *testing.T, dsn, slot string, xmin uint32) *pgconn.PgConn {
	t.Helper()
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["replication"] = "true"
	conn, err := pgconn.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `CREATE_REPLICATION_SLOT `+slot+` PHYSICAL RESERVE_WAL`).ReadAll(); err != nil {
		t.Fatal(err)
	}
	system, err := conn.Exec(t.Context(), `IDENTIFY_SYSTEM`).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	conn.Frontend().SendQuery(&pgproto3.Query{String: `START_REPLICATION SLOT ` + slot + ` PHYSICAL ` + string(system[0].Rows[0][2])})
	message := wire.BigEndian.AppendUint64([]byte{'h'}, 0)
	for _, v := range []uint32{xmin, 0, 0, 0} { // the catalog's xmin is none
		message = wire.BigEndian.AppendUint32(message, v)
	}
	conn.Frontend().Send(&pgproto3.CopyData{Data: message})
	if err := conn.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	return conn
}

// A snapshot that a standby reports, or has reported and a slot keeps, is waited for
// and named: it would show an empty table after the swap.
func TestSnapshotOfStandbyHoldsUpTheSwap(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, map[string]string{"wal_level": "replica", "max_wal_senders": "4", "max_replication_slots": "4"})
	conn, err := pgx.Connect(t.Context(), server.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	mustExec(t, conn, `
		CREATE SCHEMA app;
		CREATE TABLE app.t (id int PRIMARY KEY);
		INSERT INTO app.t SELECT generate_series(1, 100)`)
	xmin := pgtest.Query[int64](t, conn, `SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint`)
	standby := feedback(t, server.ConnString("postgres"), "reader", uint32(xmin))
	defer standby.Close(t.Context())
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, conn, `SELECT xmin IS NOT NULL FROM pg_replication_slots`)
	}, "the standby's feedback")
	o := options(t, "app.t", repack.ChangeLog)
	o.MaxSnapshotWait = 100 * time.Millisecond
	config, err := pgx.ParseConfig(server.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if plan := planWith(t, config, o); len(plan.Standbys) != 1 || !plan.Standbys[0].Feedback {
		t.Errorf("planned with standbys %+v, want one that reports its snapshot", plan.Standbys)
	}
	runs := func() error {
		r, err := repack.New(config, o)
		if err != nil {
			t.Fatal(err)
		}
		return r.Run(testContext(t))
	}
	err = runs()
	var waited *repack.SnapshotError
	if !errors.As(err, &waited) || !strings.Contains(err.Error(), "replication slot reader") {
		t.Errorf("run: %v, want a *SnapshotError that names the slot", err)
	}
	if err := standby.Close(t.Context()); err != nil {
		t.Error(err)
	}
	pgtest.WaitFor(t, func() bool {
		return !pgtest.Query[bool](t, conn, `SELECT active FROM pg_replication_slots`)
	}, "the standby to leave")
	if err := runs(); !errors.As(err, &waited) || !strings.Contains(err.Error(), "not in use") {
		t.Errorf("run: %v, want a *SnapshotError that says that the slot is not in use", err)
	}
	mustExec(t, conn, `SELECT pg_drop_replication_slot('reader')`)
	if err := runs(); err != nil {
		t.Errorf("run: %v", err)
	}
}

// TestQueryOnStandby has a query go on on a standby: it holds up the swap. One that
// begins right before the exchange does not, and finds every row behind it.
func TestQueryOnStandby(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, nil)
	standby := givenStandby(t, server, "reader")
	for _, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			db := pgtest.NewOn(t, server)
			db.Exec(t, smallSQL)
			standbyHas(t, db, standby)
			reader, err := pgx.Connect(t.Context(), standby.ConnString(db.Name))
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close(context.Background())
			finds := func(want, when string) {
				t.Helper()
				if got := pgtest.Query[string](t, reader, `
					SELECT string_agg(DISTINCT a, '') || ' ' || count(*) || ' ' || sum(id) FROM app.t`); got != want {
					t.Errorf("%s the standby finds %q, want %q", when, got, want)
				}
			}
			old := begin(t, reader, pgx.RepeatableRead)
			mustExec(t, old, `SELECT 1`)
			db.Exec(t, `UPDATE app.t SET a = 'b'`)

			o := options(t, "app.t", strategy)
			o.MaxSnapshotWait = 100 * time.Millisecond
			var waited *repack.SnapshotError
			if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &waited) || !strings.Contains(err.Error(), "standby of replication slot reader") {
				t.Fatalf("run: %v, want a *SnapshotError that names the slot", err)
			}
			standbyHas(t, db, standby)
			finds("a 1000 500500", "before the swap")

			o.Until, o.MaxSnapshotWait = repack.Swap, time.Minute
			waiting, drained := watch(&o, awaitingSnapshots), haltAtStep(t, &o, repack.StepDrained)
			done := startRun(t, db, o)
			awaitLog(t, waiting, done)
			commit(t, old)
			drained.await(t, done)
			standbyHas(t, db, standby)
			late := begin(t, reader, pgx.RepeatableRead)
			mustExec(t, late, `SELECT 1`)
			drained.release()
			mustEnd(t, done)
			standbyHas(t, db, standby)
			finds("b 1000 500500", "with a snapshot from before the swap")
			commit(t, late)
			run(t, db, options(t, "app.t", strategy))
			standbyHas(t, db, standby)
			finds("b 1000 500500", "after clean_up")
		})
	}
}

// givenStandby is a standby that reports its snapshots, for which the server keeps WAL
// by slot.
func givenStandby(t *testing.T, server *pgserver.Server, slot string) *pgserver.Server {
	t.Helper()
	if !server.HasBackup() {
		t.Skip("no pg_basebackup for this server")
	}
	standby, err := server.StartStandby(testContext(t), slot, map[string]string{
		"hot_standby_feedback": "on", "wal_receiver_status_interval": "1s", "max_standby_streaming_delay": "-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Close(); err != nil {
			t.Error(err)
		}
	})
	return standby
}

// standbyHas waits until the standby shows what the server has committed.
func standbyHas(t *testing.T, db *pgtest.Database, standby *pgserver.Server) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), standby.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	now := db.QueryString(t, `SELECT pg_current_wal_insert_lsn()`)
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, conn, `SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn`, now)
	}, "the standby")
}

func planWith(t *testing.T, config *pgx.ConnConfig, o repack.Options) *repack.Plan {
	t.Helper()
	r, err := repack.New(config, o)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := r.Plan(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return plan
}
