package tests

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// plainTypesSQL has every type that goes through the client, with values at the
// edges of it.
var plainTypesSQL = fixture("plain_types")

// TestTransfer gets every bit back, whichever way the rows go.
func TestTransfer(t *testing.T) {
	t.Parallel()
	for way, through := range map[repack.Transfer]bool{repack.TransferAuto: false, repack.TransferServer: false, repack.TransferClient: true} {
		t.Run(string(way), func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			db.Exec(t, plainTypesSQL)
			before := db.Dump(t)
			const bits = `
				SELECT
				       md5(string_agg(t::text || (SELECT sum(pg_column_size(v))
				       FROM unnest(ARRAY[n::text, text, bpchar::text]) v), E'\n' ORDER BY id))
				FROM   app.t`
			rows := db.QueryString(t, bits)
			o := options(t, "app.t", repack.ChangeLog)
			o.Transfer = way
			var log bytes.Buffer
			o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			run(t, db, o)
			if want := fmt.Sprintf("through_client=%t", through); !strings.Contains(log.String(), want) {
				t.Errorf("the log has no %s:\n%s", want, log.String())
			}
			if after := db.QueryString(t, bits); after != rows {
				t.Errorf("rows %s, want %s", after, rows)
			}
			sameDump(t, db, before)
		})
	}
}

// TestTransferOfShippedWAL spares WAL where it would be archived.
func TestTransferOfShippedWAL(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, map[string]string{"archive_mode": "on", "archive_command": "true"})
	config, err := pgx.ParseConfig(server.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	mustExec(t, conn, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); INSERT INTO app.t VALUES (1)`)
	o := options(t, "app.t", repack.ChangeLog)
	var log bytes.Buffer
	o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r, err := repack.New(config, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "through_client=true") {
		t.Errorf("the log has no through_client=true:\n%s", log.String())
	}
}

// TestTransferWithinServer keeps from the client what COPY might give back
// changed, or would have to decompress.
func TestTransferWithinServer(t *testing.T) {
	t.Parallel()
	for name, column := range map[string]string{
		"jsonb": `jsonb DEFAULT '{"a": 1.0}'`, "array": `int[] DEFAULT '[2:3]={1,2}'`, "enum": `app.size DEFAULT 's'`,
		"domain": `app.positive DEFAULT 1`, "toasted": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			db.Exec(t, `
				CREATE SCHEMA app;
				CREATE TYPE app.size AS ENUM ('s');
				CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
				CREATE TABLE app.t (id int PRIMARY KEY)`)
			if column == "" {
				db.Exec(t, `
					ALTER TABLE app.t ADD c text;
					INSERT INTO app.t
					SELECT i, (SELECT string_agg(md5(i || ' ' || g), '') FROM generate_series(1, 100) g)
					FROM   generate_series(1, 20) i`)
			} else {
				db.Exec(t, `ALTER TABLE app.t ADD c `+column+`; INSERT INTO app.t SELECT generate_series(1, 20)`)
			}
			before := db.Checksum(t, "app.t")
			o := options(t, "app.t", repack.ChangeLog)
			o.Transfer = repack.TransferClient
			var log bytes.Buffer
			o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			run(t, db, o)
			if !strings.Contains(log.String(), "through_client=false") || !strings.Contains(log.String(), "copied within the server") {
				t.Errorf("log:\n%s", log.String())
			}
			if after := db.Checksum(t, "app.t"); after != before {
				t.Errorf("%s, was %s", after, before)
			}
		})
	}
}

// TestTransferCutOff loses the connection that reads, or the one that writes,
// in the middle of a chunk: nothing of the chunk stays, and the next run copies it.
func TestTransferCutOff(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"TO STDOUT", "FROM STDIN"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, note text);
				INSERT INTO app.t SELECT g, repeat('x', 200) FROM generate_series(1, 20000) g`)
			before, rows := db.Dump(t), db.Checksum(t, "app.t")
			o := options(t, "app.t", repack.ChangeLog)
			o.Transfer, o.Jobs = repack.TransferClient, 1
			runUntil(t, db, o, repack.Setup)
			// The row that cannot be locked holds up the writing end in the middle.
			db.Exec(t, `CREATE TABLE app.gate (); CREATE FUNCTION app.wait() RETURNS trigger LANGUAGE plpgsql AS $$
				BEGIN IF NEW.id = 10000 THEN PERFORM FROM app.gate; END IF; RETURN NEW; END $$`)
			shadow := pgtest.Query[string](t, db.Pool, `SELECT shadow::regclass::text FROM repack_registry.job`)
			db.Exec(t, `CREATE TRIGGER wait BEFORE INSERT ON `+shadow+` FOR EACH ROW EXECUTE FUNCTION app.wait()`)
			gate := begin(t, db.Connect(t), pgx.ReadCommitted)
			mustExec(t, gate, `LOCK TABLE app.gate`)
			failed := make(chan error, 1)
			go func() { failed <- newRepack(t, db, o).Run(testContext(t)) }()
			pgtest.WaitBlockedBy(t, db.Pool, gate.Conn().PgConn().PID())
			db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND application_name LIKE 'repack %' AND query LIKE '%`+end+`%'`)
			if err := <-failed; err == nil {
				t.Error("the run did not notice")
			}
			commit(t, gate)
			if n := db.QueryString(t, `SELECT (SELECT count(*) FROM `+shadow+`) - (SELECT sum(rows) FROM repack_registry.chunk)`); n != "0" {
				t.Errorf("%s rows stayed of a chunk that was not finished", n)
			}
			db.Exec(t, `DROP TRIGGER wait ON `+shadow+`; DROP FUNCTION app.wait; DROP TABLE app.gate`)
			run(t, db, o)
			sameDump(t, db, before)
			if after := db.Checksum(t, "app.t"); after != rows {
				t.Errorf("%s, was %s", after, rows)
			}
		})
	}
}
