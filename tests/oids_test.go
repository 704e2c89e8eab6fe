package tests

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// keptSQL keeps the OIDs of app.orders in every way that follows the table. A
// value and the name that it should mean stand side by side.
var keptSQL = fixture("kept_oids")

// meaningSQL shows what the values mean by now.
const meaningSQL = `
SELECT concat_ws(' | ', k.entity, k.kind, k.ix, k.also, k.d, k.ds, k.dl::regclass[], k.seq, array_dims(k.also),
       k.vec::oid[]::regclass[], k.kinds,
       (SELECT conname || ' on ' || conrelid::regclass FROM pg_constraint c WHERE c.oid = k.con),
       (SELECT string_agg(table_oid::regclass::text, ',' ORDER BY since, table_oid::regclass::text) FROM app.audited),
       (SELECT string_agg(table_oid::regclass::text, ',' ORDER BY id) FROM app.audit),
       (SELECT string_agg(rel::regclass::text || history, ',') FROM app.versioned),
       (SELECT string_agg(id || ':' || me, ',') FROM app.orders WHERE me IS NOT NULL))
FROM   app.kept k
WHERE  id = 1`

var keptColumns = []string{
	"app.kept.entity", "app.kept.kind", "app.kept.ix", "app.kept.also", "app.kept.d", "app.kept.ds", "app.kept.dl", "app.kept.con", "app.kept.seq",
	"app.kept.vec", "app.kept.kinds", "app.audited.table_oid", "app.audit.table_oid", "app.versioned.rel", "app.orders.me",
}

// TestOIDKept has the OIDs of the table in columns of every kind: refused with
// each by name, and with --update-oid all follow the table, through the swap, back
// by revert, and through clean_up.
func TestOIDKept(t *testing.T) {
	t.Parallel()
	inTurnIn(t, 1, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, keptSQL)
		refused(t, db, "app.orders", append([]string{
			"1 row", "table app.orders", "index app.orders_a", "constraint orders_a_check", "--ignore-oid",
		}, keptColumns...)...)
		before, dump := db.QueryString(t, meaningSQL), db.Dump(t)
		means := func(when string) {
			t.Helper()
			if after := db.QueryString(t, meaningSQL); after != before {
				t.Errorf("%s the values mean\n%s\nwant\n%s", when, after, before)
			}
		}
		was := db.QueryString(t, `SELECT 'app.orders'::regclass::oid`)
		o := options(t, "app.orders", strategy)
		o.UpdateOID = keptColumns
		runUntil(t, db, o, repack.Swap)
		means("after the swap")
		if is := db.QueryString(t, `SELECT 'app.orders'::regclass::oid`); is == was {
			t.Fatal("the table has kept its OID")
		}
		o.UpdateOID = nil // the job keeps to them
		revert(t, db, o)
		means("after revert")
		if is := db.QueryString(t, `SELECT 'app.orders'::regclass::oid`); is != was {
			t.Error("the old table is not back")
		}

		o.UpdateOID = keptColumns
		runUntil(t, db, o, repack.Backfill)
		db.Exec(t, `INSERT INTO app.kept (id, entity) VALUES (3, 'app.orders')`)
		o.UpdateOID = nil
		run(t, db, o)
		means("after clean_up")
		if got := db.QueryString(t, `SELECT entity::text FROM app.kept WHERE id = 3`); got != "app.orders" {
			t.Errorf("a value that came during the job means %s", got)
		}
		sameDump(t, db, dump)
		noArtefacts(t, db)
	})
}

// TestOIDKeptOld keeps the old table, and has values written by name after the
// swap in a column that nobody named.
func TestOIDKeptOld(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); CREATE TABLE app.kept (id int, rel regclass);
		CREATE TABLE app.other (rel regclass)`)
	db.Exec(t, `INSERT INTO app.kept VALUES (1, 'app.t')`)
	o := options(t, "app.t", repack.ChangeLog)
	o.KeepOld, o.UpdateOID = true, []string{`"app".KEPT.rel`}
	runUntil(t, db, o, repack.PostSyncUpdate)
	db.Exec(t, `INSERT INTO app.other VALUES ('app.t')`)
	o.UpdateOID = nil
	var held *repack.OIDsHeldError
	if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &held) || !strings.Contains(err.Error(), "app.other.rel") {
		t.Fatalf("run: %v, want it to name app.other.rel", err)
	}
	o.UpdateOID = []string{"app.other.rel"}
	runUntil(t, db, o, repack.Swap)
	db.Exec(t, `CREATE TABLE app.late (rel regclass)`)
	db.Exec(t, `INSERT INTO app.late VALUES ('app.t')`)
	o.UpdateOID = nil
	if err := newRepack(t, db, o).Revert(testContext(t)); !errors.As(err, &held) || !strings.Contains(err.Error(), "app.late.rel") {
		t.Fatalf("revert: %v, want it to name app.late.rel", err)
	}
	run(t, db, o)
	for _, table := range []string{"kept", "other", "late"} {
		if got := db.QueryString(t, `SELECT rel::text FROM app.`+table); got != "app.t" {
			t.Errorf("app.%s has %s", table, got)
		}
	}
	if got := db.QueryString(t, `SELECT count(*) FROM pg_class WHERE relname = 't' AND relkind = 'r'`); got != "2" {
		t.Errorf("%s tables, want the old one too", got)
	}
}

// TestOIDIgnored leaves what is kept, and says so.
func TestOIDIgnored(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); CREATE TABLE app.kept (rel oid, kind regtype)`)
	db.Exec(t, `INSERT INTO app.kept VALUES ('app.t'::regclass, 'app.t')`)
	was := db.QueryString(t, `SELECT rel FROM app.kept`)
	cli(t, db, 3, "run", "--table", "app.t").says(t, "app.kept.rel", "app.kept.kind", "--update-oid 'app.kept.rel'", "--ignore-oid")
	cli(t, db, 3, "plan", "--table", "app.t").says(t, "app.kept.rel")
	cli(t, db, 3, "run", "--dry-run", "--table", "app.t", "--update-oid", "app.kept.rel").says(t, "app.kept.kind")
	for _, given := range []string{"app.kept", "app.kept.none", "app.t.id", "a.b.c.d", "app..", ""} {
		cli(t, db, 2, "run", "--table", "app.t", "--update-oid", given).says(t, "--update-oid")
	}
	plan := cli(t, db, 0, "plan", "--sql", "--table", "app.t", "--update-oid", "app.kept.rel", "--update-oid", "app.kept.kind")
	for _, words := range []string{"SHARE ROW EXCLUSIVE on \"app\".\"kept\"", `UPDATE ONLY "app"."kept" SET "rel"`} {
		if !strings.Contains(plan.stdout.String(), words) {
			t.Errorf("the plan does not say %q:\n%s", words, plan.stdout.String())
		}
	}
	cli(t, db, 0, "run", "--table", "app.t", "--until", "swap", "--ignore-oid").says(t, "app.kept.rel")
	cli(t, db, 0, "revert", "--table", "app.t")
	cli(t, db, 0, "run", "--table", "app.t", "--ignore-oid")
	if is := db.QueryString(t, `SELECT rel FROM app.kept`); is != was {
		t.Error("a value was rewritten")
	}
}

// TestOIDUnwritable names columns in which nothing can be rewritten, or should.
func TestOIDUnwritable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, sql, column, says string }{
		{
			"referred to",
			`CREATE TABLE app.k (rel oid PRIMARY KEY); CREATE TABLE app.c (rel oid REFERENCES app.k)`,
			"app.k.rel",
			"foreign key",
		},
		{
			"generated",
			`CREATE TABLE app.k (id regclass, rel oid GENERATED ALWAYS AS (id::oid) STORED)`,
			"app.k.rel",
			"generated",
		},
		{"rule", `CREATE TABLE app.k (rel oid); CREATE RULE r AS ON UPDATE TO app.k DO INSTEAD NOTHING`, "app.k.rel", "rule"},
		{
			"materialized view",
			`CREATE MATERIALIZED VIEW app.k AS SELECT relname, oid AS rel FROM pg_class WHERE relname = 't'`,
			"app.k.rel",
			"REFRESH",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); `+c.sql)
			if c.name == "generated" {
				db.Exec(t, `INSERT INTO app.k (id) VALUES ('app.t')`)
			} else if c.name != "materialized view" {
				db.Exec(t, `INSERT INTO app.k VALUES ('app.t'::regclass)`)
			}
			refused(t, db, "app.t", c.column)
			o := options(t, "app.t", repack.ChangeLog)
			o.UpdateOID = []string{c.column}
			var refusal *repack.RefusedError
			if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &refusal) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("run: %v, want it refused for %q", err, c.says)
			}
		})
	}
}

// TestOIDElsewhere has the OID of a partition in arguments of a trigger, and in a
// column that keeps the partitioned table's too.
func TestOIDElsewhere(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY) PARTITION BY LIST (id);
		CREATE TABLE app.t_1 PARTITION OF app.t FOR VALUES IN (1); CREATE TABLE app.u (id int PRIMARY KEY);
		CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`)
	db.Exec(t, `
		DO $$ BEGIN
		    EXECUTE format('CREATE TRIGGER tells BEFORE INSERT ON app.u FOR EACH ROW
		                    EXECUTE FUNCTION app.f(%L, %L)', 'é', 'table=' || 'app.t_1'::regclass::oid);
		END $$`)
	refused(t, db, "app.t", "trigger tells on app.u", "arguments")
	db.Exec(t, `DROP TRIGGER tells ON app.u; CREATE TABLE app.kept (rel regclass)`)
	db.Exec(t, `INSERT INTO app.kept VALUES ('app.t_1'), ('app.t_1'), ('app.t')`)
	refused(t, db, "app.t", "app.kept.rel", "2 rows", "table app.t_1")
	o := options(t, "app.t", repack.DirectTrigger)
	o.UpdateOID = []string{"app.kept.rel"}
	run(t, db, o)
	if got := db.QueryString(t, `
		SELECT string_agg(rel::text, ',' ORDER BY rel::text) FROM app.kept`); got != "app.t,app.t_1,app.t_1" {
		t.Errorf("the column has %s", got)
	}
}

// TestOIDNotSearched says what it did not look at.
func TestOIDNotSearched(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role := db.Role(t)
	db.Exec(t, `
		CREATE SCHEMA app;
		CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE TABLE app.secret (rel oid);
		CREATE TABLE app.rows (rel oid);
		CREATE TYPE app.pair AS (rel regclass, n int);
		CREATE TABLE app.within (p app.pair);
		CREATE TABLE app.held (rel oid)`)
	db.Exec(t, `INSERT INTO app.secret VALUES ('app.t'::regclass); INSERT INTO app.rows VALUES ('app.t'::regclass);
		INSERT INTO app.held VALUES (1); INSERT INTO app.within VALUES (ROW ('app.t', 1));
		ALTER TABLE app.rows ENABLE ROW LEVEL SECURITY; ALTER TABLE app.t OWNER TO `+role+`;
		GRANT SELECT ON app.rows, app.within, app.held TO `+role+`; GRANT USAGE, CREATE ON SCHEMA app TO `+role+`;
		DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO `+role+`', current_database()); END $$`)
	holder := db.Connect(t)
	mustExec(t, holder, `BEGIN; LOCK TABLE app.held`)
	p := command(t, []string{"REPACK_DSN=" + strings.Replace(db.DSN, "postgres@", role+"@", 1)}, "run", "--table", "app.t")
	p.start(t)
	if code := p.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.says(t, "app.secret.rel", "GRANT SELECT", "app.rows.rel", "row-level security", "app.within.p", "composite", "app.held.rel", "locked")
}

// TestOIDManyValues has three million values that are no table's.
func TestOIDManyValues(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `
		CREATE SCHEMA app;
		CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE UNLOGGED TABLE app.blobs (id int, lo oid);
		INSERT INTO app.blobs SELECT g, g FROM generate_series(1000000, 4000000) g`)
	o := options(t, "app.t", repack.ChangeLog)
	o.Until = repack.PreValidate
	began := time.Now()
	run(t, db, o)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("pre_validate took %s", took)
	}
}

// TestOIDSearchEnds has arrays that it takes seconds to look through: the search ends
// after two, and says so.
func TestOIDSearchEnds(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `
		CREATE SCHEMA app;
		CREATE UNLOGGED TABLE app.slow (rels oid[]);
		ALTER TABLE app.slow ALTER rels SET STORAGE EXTERNAL;
		DO $$ BEGIN EXECUTE format('CREATE TABLE app.t (id int PRIMARY KEY, %s)', -- as many OIDs that change
		    (SELECT string_agg(format('CHECK (id <> %s)', n), ', ') FROM generate_series(1, 500) n)); END $$;
		INSERT INTO app.slow
		SELECT (SELECT array_agg((x + g)::oid) FROM generate_series(100000000, 100020000) x)
		FROM   generate_series(1, 300) g`)
	cli(t, db, 0, "run", "--table", "app.t", "--until", "pre_validate").says(t, "app.slow.rels", "takes more than 2s")
}

// TestOIDWrittenMeanwhile has the table's name written as an OID in a transaction that
// is still open at the exchange: that waits for it, and rewrites the value.
func TestOIDWrittenMeanwhile(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); CREATE TABLE app.kept (rel regclass)`)
		o := options(t, "app.t", strategy)
		o.UpdateOID = []string{"app.kept.rel"}
		runUntil(t, db, o, repack.PostSyncUpdate)
		writer := begin(t, db.Connect(t), pgx.ReadCommitted)
		mustExec(t, writer, `INSERT INTO app.kept VALUES ('app.t')`)
		o.LockTimeout = queuing
		done := startRun(t, db, o)
		pgtest.WaitBlockedBy(t, db.Pool, pid(writer))
		commit(t, writer)
		mustEnd(t, done)
		if got := db.QueryString(t, `SELECT rel::text FROM app.kept`); got != "app.t" {
			t.Errorf("the column has %s", got)
		}
	})
}

// TestOIDExtension has an extension keep the table by its OID: refused by the
// extension's name, with what it offers, and not to be rewritten.
func TestOIDExtension(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	givenPeriods(t, db)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, note text)`)
	db.Exec(t, `SELECT periods.add_system_time_period('app.t', 'a', 'b'); SELECT periods.add_system_versioning('app.t')`)
	const column = "periods.system_versioning.table_name"
	refused(t, db, "app.t", "extension periods", column, "periods.drop_system_versioning")
	o := options(t, "app.t", repack.ChangeLog)
	o.UpdateOID = []string{column}
	var refusal *repack.RefusedError
	if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "extension periods") {
		t.Errorf("run with --update-oid: %v, want it refused", err)
	}
}

// standInSQL makes of what is in schema periods an extension of that name.
const standInSQL = `
CREATE SCHEMA periods;
CREATE TABLE periods.system_versioning (table_name regclass PRIMARY KEY);
CREATE FUNCTION periods.add_system_time_period(regclass, name, name) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION periods.add_system_versioning(regclass) RETURNS void LANGUAGE sql
    AS 'INSERT INTO periods.system_versioning VALUES ($1)';
SET allow_system_table_mods = on;
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
SELECT 'periods.system_versioning'::regclass::oid, 'periods', nspowner, oid, false, '1.2'
FROM   pg_namespace
WHERE  nspname = 'periods';
ALTER EXTENSION periods ADD TABLE periods.system_versioning`

// givenPeriods creates the extension, or where the server has not got it, one that
// keeps tables as it does.
func givenPeriods(t *testing.T, db *pgtest.Database) {
	t.Helper()
	if pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM pg_available_extensions WHERE name = 'periods'`) > 0 {
		db.Exec(t, `CREATE EXTENSION periods CASCADE`)
		return
	}
	db.Exec(t, standInSQL)
}
