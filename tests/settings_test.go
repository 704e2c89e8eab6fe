package tests

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// hostileSettings are defaults that an administrator or an application may have
// set for a role or a database, each the worst for us. What a server does not know
// is left out. They are in effect for the tool's sessions unless it sets its own.
var hostileSettings = map[string]string{
	"statement_timeout":                   "250ms",
	"idle_in_transaction_session_timeout": "250ms",
	"idle_session_timeout":                "250ms",
	"lock_timeout":                        "1ms",
	"transaction_timeout":                 "250ms",
	"default_transaction_isolation":       "serializable",
	"default_transaction_read_only":       "on",
	"default_transaction_deferrable":      "on",
	"search_path":                         "decoy, pg_catalog, public",
	"default_tablespace":                  "nowhere",
	"temp_tablespaces":                    "nowhere",
	"default_table_access_method":         "decoy",
	"session_replication_role":            "replica",
	"check_function_bodies":               "off",
	"row_security":                        "on",
	"bytea_output":                        "escape",
	"DateStyle":                           "German, DMY",
	"IntervalStyle":                       "sql_standard",
	"extra_float_digits":                  "-15",
	"TimeZone":                            "Asia/Kathmandu",
	"plan_cache_mode":                     "force_generic_plan",
	"enable_seqscan":                      "off",
	"enable_indexscan":                    "off",
	"enable_bitmapscan":                   "off",
	"enable_tidscan":                      "off",
	"enable_nestloop":                     "off",
	"enable_hashjoin":                     "off",
	"enable_mergejoin":                    "on",
	"enable_sort":                         "off",
	"enable_material":                     "off",
	"from_collapse_limit":                 "1",
	"join_collapse_limit":                 "1",
	"quote_all_identifiers":               "on",
	"standard_conforming_strings":         "off",
	"transform_null_equals":               "on",
	"array_nulls":                         "off",
	"client_encoding":                     "LATIN1",
	"client_min_messages":                 "debug1",
	"xmloption":                           "document",
	"lo_compat_privileges":                "on",
	"synchronize_seqscans":                "on",
	"jit_above_cost":                      "0",
	"work_mem":                            "64kB",
	"constraint_exclusion":                "on",
}

// settingsSQL is a table of values whose text depends on settings, with expressions
// that a decoy could take over.
const settingsSQL = `
CREATE TABLE @t (
    id      int PRIMARY KEY,
    bytes   bytea,
    at      timestamptz DEFAULT '2024-02-01 03:04:05.678+02',
    day     date DEFAULT '2024-02-01' CHECK (day > '2020-01-02'),
    span    interval DEFAULT '1 year -2 mons +3 days -04:05:06.789',
    near    float8 DEFAULT 0.1 + 0.2,
    nearer  float4,
    list    text[],
    doc     xml,
    nothing int CHECK (nothing IS NULL OR nothing > 0),
    upper   text GENERATED ALWAYS AS (upper('ü' || id::text)) STORED
);
CREATE INDEX ON @t ((near + 0.3));
CREATE INDEX ON @t (day) WHERE day > '2021-03-04';
INSERT INTO @t (id, bytes, nearer, list, doc)
SELECT i, decode(lpad(to_hex(i), 8, '0'), 'hex'), i / 3.0, ARRAY['NULL', NULL, 'ä\b' || i], '<a>ü</a>'
FROM   generate_series(1, 3000) i`

// slowSQL adds a column that takes the tool, and nobody else, longer than the
// time-outs above.
const slowSQL = `
CREATE FUNCTION @slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF $1 = 7 AND pg_catalog.current_setting('application_name') LIKE 'repack %' THEN
        PERFORM pg_catalog.pg_sleep(0.4);
    END IF;
    RETURN $1;
END $$;
ALTER TABLE @t ADD slow int GENERATED ALWAYS AS (@slow(id)) STORED`

// decoySQL is a schema full of things that are found first where a name is not
// qualified. A statement that uses one of them fails or leaves a wrong row.
const decoySQL = `
CREATE SCHEMA decoy;
CREATE TABLE decoy.t (id int PRIMARY KEY);
CREATE TABLE decoy.items (id int PRIMARY KEY);
CREATE FUNCTION decoy.hijacked() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''hijacked''; END';
CREATE FUNCTION decoy.eq(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT decoy.hijacked()';
CREATE FUNCTION decoy.eq(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT decoy.hijacked()';
CREATE FUNCTION decoy.eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT decoy.hijacked()';
CREATE OPERATOR decoy.= (LEFTARG = int, RIGHTARG = int, FUNCTION = decoy.eq);
CREATE OPERATOR decoy.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = decoy.eq);
CREATE OPERATOR decoy.= (LEFTARG = text, RIGHTARG = text, FUNCTION = decoy.eq);
CREATE OPERATOR decoy.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = decoy.eq);
CREATE FUNCTION decoy.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT decoy.hijacked()::text';
CREATE FUNCTION decoy.pg_current_snapshot() RETURNS pg_snapshot LANGUAGE sql
    AS 'SELECT decoy.hijacked()::text::pg_snapshot';
CREATE FUNCTION decoy.pg_visible_in_snapshot(xid8, pg_snapshot) RETURNS boolean LANGUAGE sql
    AS 'SELECT decoy.hijacked()';
CREATE FUNCTION decoy.count(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT decoy.hijacked()::text::bigint';
CREATE FUNCTION decoy.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT decoy.hijacked()::text';
CREATE FUNCTION decoy.upper(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT decoy.hijacked()::text';
GRANT USAGE ON SCHEMA decoy TO PUBLIC`

// givenDecoys also makes what the settings above name.
func givenDecoys(t *testing.T, db *pgtest.Database) {
	t.Helper()
	db.Exec(t, decoySQL)
	db.Exec(t, `CREATE ACCESS METHOD decoy TYPE TABLE HANDLER heap_tableam_handler`)
}

// setHostile sets all that the server knows, for a role or a database.
func setHostile(t *testing.T, conn *pgx.Conn, whom string) {
	t.Helper()
	for name, value := range hostileSettings {
		if pgtest.Query[bool](t, conn, `SELECT EXISTS (SELECT FROM pg_settings WHERE lower(name) = lower($1))`, name) {
			if name != "search_path" {
				value = "'" + value + "'"
			}
			mustExec(t, conn, fmt.Sprintf(`ALTER %s SET %s = %s`, whom, name, value))
		}
	}
}

// TestHostileSettings has every setting that could make a run fail, or copy
// something else, set against it: for the role, then for the database.
func TestHostileSettings(t *testing.T) {
	for whom, strategy := range map[string]string{"role": repack.ChangeLog, "database": repack.DirectTrigger} {
		t.Run(whom, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			givenDecoys(t, db)
			twins(t, db, settingsSQL+";"+slowSQL)
			role := db.Role(t)
			db.Exec(t, `ALTER ROLE `+role+` SUPERUSER`)
			before := db.Dump(t)
			target := "ROLE " + role
			if whom == "database" {
				target = "DATABASE " + db.Name
			}
			application := db.Connect(t) // with the defaults, also after
			t.Cleanup(func() { mustExec(t, application, fmt.Sprintf(`ALTER %s RESET ALL`, target)) })
			setHostile(t, application, target)
			o := options(t, "app.t", strategy)
			o.Jobs, o.BatchSize, o.Verify = 1, 500, repack.VerifyFull
			o.Hooks = atPlaces(func(place string) {
				if place == beforeBackfill || place == repack.StepDrained {
					mustExec(t, application, `SELECT pg_sleep(0.3)`) // our sessions are idle for so long
				}
				both(t, application, fmt.Sprintf(`
					UPDATE @t SET nearer = id / 7.0, list = list || '%s'::text WHERE id %% 50 = 3`, place))
			})
			if err := runAs(t, db, role, o); err != nil {
				t.Fatalf("run: %v", err)
			}
			mustExec(t, application, fmt.Sprintf(`ALTER %s RESET ALL`, target))
			db.Pool.Reset()
			alike(t, db, "t")
			sameDump(t, db, before)
			noArtefacts(t, db)
		})
	}
}

// writerSettings are those that an application sets for itself.
var writerSettings = []string{
	`SET search_path = decoy, pg_catalog, app`,
	`SET statement_timeout = '2s'`,
	`SET lock_timeout = '1s'`,
	`SET idle_in_transaction_session_timeout = '30s'`,
	`SET plan_cache_mode = force_generic_plan`,
	`SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_nestloop = off`,
	`SET row_security = off; SET check_function_bodies = off`,
	`
		SET DateStyle = 'German, DMY';
		SET IntervalStyle = sql_standard;
		SET bytea_output = escape;
		SET extra_float_digits = -15;
		SET TimeZone = 'Asia/Kathmandu'`,
	`SET transform_null_equals = on; SET array_nulls = off; SET xmloption = document`,
	`SET default_table_access_method = decoy`,
	`
		CREATE TEMPORARY TABLE t (id int PRIMARY KEY, note text);
		CREATE TEMPORARY TABLE repack_change_log_1 (k1 int, truncated boolean)`,
	`
		CREATE TEMPORARY TABLE new_rows (id int);
		CREATE TEMPORARY TABLE old_rows (id int);
		INSERT INTO new_rows VALUES (7);
		INSERT INTO old_rows VALUES (7)`,
	`
		CREATE FUNCTION pg_temp.repack_capture_1() RETURNS trigger LANGUAGE plpgsql
		    AS 'BEGIN RAISE EXCEPTION ''hijacked''; END'`,
	`
		CREATE FUNCTION pg_temp.hijack(int, int) RETURNS boolean LANGUAGE plpgsql
		    AS 'BEGIN RAISE EXCEPTION ''hijacked''; END';
		CREATE OPERATOR pg_temp.= (LEFTARG = int, RIGHTARG = int, FUNCTION = pg_temp.hijack)`,
}

// TestHostileWriters has a writer, with settings, decoys and temporary objects of
// its own, write at each place of a run: the capture functions find nothing of it.
func TestHostileWriters(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		givenDecoys(t, db)
		twins(t, db, settingsSQL)
		role := db.Role(t)
		db.Exec(t, fmt.Sprintf(`GRANT USAGE ON SCHEMA app, control TO %[1]s; GRANT ALL ON app.t, control.t TO %[1]s;
			GRANT TEMPORARY ON DATABASE %[2]s TO %[1]s; CREATE EXTENSION IF NOT EXISTS plpgsql`, role, db.Name))
		writer := db.ConnectAs(t, role)
		for _, sql := range writerSettings {
			mustExec(t, writer, sql)
		}
		o := options(t, "app.t", strategy)
		o.Jobs, o.BatchSize = 1, 500
		n := 10000
		o.Hooks = atPlaces(func(string) {
			for _, isolation := range isolationLevels {
				n += 10
				tx := begin(t, writer, isolation)
				both(t, tx,
					fmt.Sprintf(`INSERT INTO @t (id, bytes) VALUES (%d, '\x00ff'), (%d, NULL)`, n, n+1),
					fmt.Sprintf(`
						UPDATE @t
						SET    nearer = 1.0 / 3, at = at + '1 day'::interval
						WHERE  id BETWEEN %[1]d AND %[1]d + 20`, n/10),
					fmt.Sprintf(`UPDATE @t SET id = id + 100000 WHERE id BETWEEN %[1]d AND %[1]d + 1`, 100+n/5),
					fmt.Sprintf(`DELETE FROM @t WHERE id BETWEEN %[1]d AND %[1]d + 2`, n/5-1000))
				commit(t, tx)
			}
		})
		before := db.Dump(t)
		run(t, db, o)
		alike(t, db, "t")
		sameDump(t, db, before)
	})
}

// TestHostileConnectionString has the same come with the connection string.
func TestHostileConnectionString(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	givenDecoys(t, db)
	twins(t, db, settingsSQL)
	config := db.Config(t)
	config.RuntimeParams["options"] = "-c statement_timeout=250 -c default_transaction_read_only=on -c search_path=decoy"
	config.RuntimeParams["search_path"] = "decoy"
	config.RuntimeParams["default_transaction_isolation"] = "serializable"
	config.RuntimeParams["lock_timeout"] = "1"
	r, err := repack.New(config, options(t, "app.t", repack.ChangeLog))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(testContext(t)); err != nil {
		t.Errorf("run: %v", err)
	}
	alike(t, db, "t")
}
