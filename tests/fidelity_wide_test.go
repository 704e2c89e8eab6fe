package tests

import (
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// wideCases are tables with as many properties at once as go together: what the
// cases with one property each have, which `make test-thorough` runs too, so that
// it can be told which of them fails.
var wideCases = []fidelityCase{
	{name: "columns", sql: wideColumnsSQL, also: []addition{
		{since: 16, sql: `ALTER TABLE app.t ADD plain text STORAGE PLAIN`},
		{since: 18, sql: `
			ALTER TABLE app.t
			    ADD v1 int GENERATED ALWAYS AS (a + 1) VIRTUAL,
			    ADD v2 text GENERATED ALWAYS AS ('x' || a::text),
			    ADD n1 int DEFAULT 1 CONSTRAINT n1_there NOT NULL,
			    ADD n2 int DEFAULT 1 NOT NULL NO INHERIT,
			    ADD n3 int;
			ALTER TABLE app.t ADD CONSTRAINT n3_there NOT NULL n3 NOT VALID;
			COMMENT ON CONSTRAINT n1_there ON app.t IS 'there'`},
	}},
	{name: "constraints", sql: wideConstraintsSQL, also: []addition{
		{since: 15, sql: `
			ALTER TABLE app.t ADD UNIQUE NULLS NOT DISTINCT (n);
			CREATE UNIQUE INDEX ON app.t (n, a) NULLS NOT DISTINCT;
			ALTER TABLE app.t ADD CONSTRAINT some_null FOREIGN KEY (b, n) REFERENCES app.p ON DELETE SET NULL (n),
			    ADD CONSTRAINT some_default FOREIGN KEY (b, n) REFERENCES app.p ON DELETE SET DEFAULT (b);
			CREATE TABLE app.some (a int, b int REFERENCES app.t (u) ON DELETE SET NULL (b))`},
		{since: 18, sql: `
			ALTER TABLE app.t ADD CHECK (a > 1000) NOT ENFORCED;
			COMMENT ON CONSTRAINT t_a_check1 ON app.t IS 'no';
			ALTER TABLE app.t ADD CONSTRAINT nobody FOREIGN KEY (c) REFERENCES "Other"."P" ("J") NOT ENFORCED;
			CREATE TABLE app.free (t int REFERENCES app.t (u) ON DELETE CASCADE NOT ENFORCED);
			INSERT INTO app.free VALUES (77)`},
		{needs: "btree_gist", sql: `
			SET search_path = ext, public;
			ALTER TABLE app.t ADD EXCLUDE USING gist (u WITH =, during WITH &&);
			RESET search_path`},
		{needs: "btree_gist", since: 18, sql: `
			SET search_path = ext, public;
			ALTER TABLE app.t ADD CONSTRAINT apart UNIQUE (u, dates WITHOUT OVERLAPS);
			CREATE TABLE app.periods (
			    u     int,
			    dates daterange,
			    FOREIGN KEY (u, PERIOD dates) REFERENCES app.t (u, PERIOD dates)
			);
			RESET search_path;
			INSERT INTO app.periods VALUES (1, '[2020-01-05, 2020-01-09)')`},
	}},
	{name: "indexes, comments and parameters", sql: wideIndexesSQL},
	{name: "behaviour", sql: wideBehaviourSQL, also: []addition{
		{since: 15, sql: `
			CREATE PUBLICATION few FOR TABLE app.t (id, "A b") WHERE (id > 5 AND "A b" <> ' WHERE ');
			CREATE PUBLICATION whole FOR TABLES IN SCHEMA app`},
	}},
	{name: "unlogged, no rows since a truncate", sql: `
		CREATE UNLOGGED TABLE app.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n serial, m int NOT NULL);
		CREATE UNIQUE INDEX "the Index" ON app.t (m);
		INSERT INTO app.t (m) SELECT generate_series(1, 10000);
		TRUNCATE app.t;
		ALTER TABLE app.t REPLICA IDENTITY USING INDEX "the Index"`},
	{
		name:  "longest names, twin of 63 bytes",
		table: `"` + longName + `".` + strings.Repeat("t", 62) + "2",
		sql: `
			CREATE SCHEMA "` + longName + `";
			SET search_path = "` + longName + `";
			CREATE TABLE ` + strings.Repeat("t", 62) + `1 (id int PRIMARY KEY);
			CREATE TABLE ` + strings.Repeat("t", 62) + `2 (
			    "` + longName + `" int GENERATED ALWAYS AS IDENTITY,
			    "` + longName + `b" int,
			    CONSTRAINT "` + longName + `c" PRIMARY KEY ("` + longName + `")
			);
			CREATE INDEX "` + longName + `d" ON ` + strings.Repeat("t", 62) + `2 ("` + longName + `b");
			INSERT INTO ` + strings.Repeat("t", 62) + `2 DEFAULT VALUES;
			RESET search_path`,
	},
	{name: "keywords and newlines, no rows", table: "\"select\".\"table\nb\"", sql: "CREATE SCHEMA \"select\"; " +
		"CREATE TABLE \"select\".\"table\nb\" (\"user\nd\" int PRIMARY KEY, \"order\" int)"},
	{name: "called like what is ours", table: "app.repack_change_log_1", sql: `
		CREATE TABLE app.repack_change_log_1 (
		    k1       int,
		    new_rows int,
		    ctid_    int,
		    CONSTRAINT repack_change_log_2 PRIMARY KEY (k1)
		);
		CREATE INDEX repack_capture_1 ON app.repack_change_log_1 (new_rows);
		INSERT INTO app.repack_change_log_1 VALUES (1)`},
	{name: "in schema repack and others", table: "repack.job", sql: `
		CREATE SCHEMA repack;
		CREATE TABLE app.job (id int PRIMARY KEY, a int);
		INSERT INTO app.job VALUES (5);
		CREATE TABLE repack.job (id int PRIMARY KEY, b int REFERENCES app.job);
		CREATE TABLE public.job (id int);
		INSERT INTO repack.job VALUES (1, 5);
		ALTER TABLE app.job ADD FOREIGN KEY (a) REFERENCES repack.job;
		CREATE TABLE repack._job (x int);
		CREATE TYPE repack._job_1 AS ENUM ('x');
		CREATE VIEW repack.__job AS SELECT 1 AS x`},
}

// wideGrantCases are written as grantCases are.
var wideGrantCases = []fidelityCase{
	{name: "grants, no rows since a delete", sql: `
		ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT ON TABLES TO {a};
		ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {z};
		ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO {a};
		ALTER DEFAULT PRIVILEGES IN SCHEMA app REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
		CREATE TABLE app.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n serial, a text, b text);
		ALTER TABLE app.t OWNER TO {owner};
		INSERT INTO app.t (a) SELECT generate_series(1, 10000);
		DELETE FROM app.t;
		GRANT USAGE ON SCHEMA app TO {a}, {z};
		REVOKE ALL ON app.t FROM {a};
		REVOKE INSERT, TRUNCATE ON app.t FROM {owner};
		GRANT INSERT (a) ON app.t TO {owner};
		GRANT UPDATE ON app.t TO {z};
		GRANT SELECT, INSERT ON app.t TO {a} WITH GRANT OPTION;
		GRANT DELETE ON app.t TO {a};
		GRANT ALL ON app.t TO PUBLIC;
		REVOKE TRUNCATE ON app.t FROM PUBLIC;
		GRANT INSERT (a) ON app.t TO {z};
		GRANT UPDATE (a), SELECT (b) ON app.t TO {z};
		GRANT SELECT (a) ON app.t TO {a};
		GRANT REFERENCES (a) ON app.t TO {z} WITH GRANT OPTION;
		SET ROLE {a};
		GRANT SELECT ON app.t TO {z};
		RESET ROLE;
		CREATE VIEW app.v AS TABLE app.t;
		ALTER VIEW app.v OWNER TO {a};
		GRANT SELECT ON app.v TO {z};
		ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
		CREATE POLICY p ON app.t TO {z}, {a} USING (true)`},
	{name: "key columns only, all rights revoked, policies that are off", sql: `
		CREATE TABLE app.t (a int, b int, PRIMARY KEY (a, b)); INSERT INTO app.t SELECT g, g FROM generate_series(1, 99) g;
		ALTER TABLE app.t OWNER TO {owner}; REVOKE ALL ON app.t FROM {owner}; ALTER TABLE app.t REPLICA IDENTITY NOTHING;
		CREATE POLICY p ON app.t FOR INSERT WITH CHECK (a > 0)`},
}

// TestFidelity swaps and reverts a table of each kind with one strategy, and
// repacks it with the other: dump and rows are what they were.
func TestFidelity(t *testing.T) {
	t.Parallel()
	cases := slices.Concat(wideCases, nameCases[:1]) // of odd names there is one case, as wide as these
	if thorough() {
		cases = slices.Concat(wideCases, columnCases, constraintCases, foreignKeyCases, indexCases, tableCases, nameCases, behaviourCases)
	}
	for n, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			eachHalf(t, n, c.run)
		})
	}
}

func TestFidelityOfGrants(t *testing.T) {
	t.Parallel()
	cases := wideGrantCases
	if thorough() {
		cases = slices.Concat(wideGrantCases, grantCases)
	}
	for n, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			eachHalf(t, n, func(t *testing.T, db *pgtest.Database, first, second string) {
				roles := []string{db.Role(t), db.Role(t), db.Role(t)}
				c := c
				c.sql = strings.NewReplacer("{a}", min(roles[0], roles[1], roles[2]), "{z}", max(roles[0], roles[1], roles[2]), "{owner}", middle(roles)).Replace(c.sql)
				c.run(t, db, first, second)
			})
		})
	}
}

var wideColumnsSQL = fixture("wide_columns")

// wideConstraintsSQL has keys to and from other tables too, and to itself.
var wideConstraintsSQL = fixture("wide_constraints")

// wideIndexesSQL has a primary key that can be deferred beside a unique index.
var wideIndexesSQL = fixture("wide_indexes")

// wideBehaviourSQL has objects of other kinds, which refer to the table.
var wideBehaviourSQL = fixture("wide_behaviour")
