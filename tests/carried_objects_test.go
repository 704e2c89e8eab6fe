package tests

import (
	"fmt"
	"testing"
)

// TestFunctionsCarried: functions whose body the server has parsed.
func TestFunctionsCarried(t *testing.T) { runTogether(t, functionCases) }

var functionCases = []carriedCase{
	{
		name: "SQL-standard bodies",
		setup: `CREATE FUNCTION app.expression(x int) RETURNS bigint LANGUAGE sql STABLE RETURN (SELECT count(*) FROM app.t WHERE a = x);
			CREATE FUNCTION app.body(x int DEFAULT 77, OUT b text, OUT n int) RETURNS SETOF record LANGUAGE sql SECURITY DEFINER PARALLEL SAFE COST 7 ROWS 3
			SET work_mem = '5MB' SET search_path = app, "My; Schema"
			BEGIN ATOMIC
			    SELECT t.b, t.id FROM app.t WHERE t.a = x ORDER BY id;
			END;
			CREATE FUNCTION app."Add; it's"(x int, VARIADIC y text[] DEFAULT '{a}') RETURNS int LANGUAGE sql
			BEGIN ATOMIC
			    INSERT INTO app.log (what) SELECT 'adding ' || z FROM unnest(y) z;
			    INSERT INTO app.t (a, b) VALUES (x, y[1]);
			    UPDATE app.t SET b = t.b || '!' WHERE t.a = x;
			    SELECT count(*)::int FROM app.t WHERE t.a = x;
			END;
			CREATE PROCEDURE app.remove(x int) LANGUAGE sql BEGIN ATOMIC DELETE FROM app.t WHERE a = x; END;
			CREATE FUNCTION app.typed(app.log) RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT t.b FROM app.t WHERE t.id = $1.n; END;
			ALTER FUNCTION app.body OWNER TO {alice}; GRANT CREATE ON SCHEMA app TO {alice}; GRANT SELECT ON app.t TO {alice};
			SET ROLE {alice}; REVOKE EXECUTE ON FUNCTION app.body FROM PUBLIC; GRANT EXECUTE ON FUNCTION app.body TO {bob} WITH GRANT OPTION; RESET ROLE;
			COMMENT ON FUNCTION app.body IS 'it''s a body'; COMMENT ON PROCEDURE app.remove IS 'remove';
			CREATE VIEW app.by_function AS SELECT app.expression(77) AS n, (app.body()).b`,
		probes: []probe{
			{freshSQL + `SELECT app.expression(77)`, "1"},
			{freshSQL + `SET LOCAL ROLE {bob}; SELECT b, n FROM app.body()`, "fresh|5000"},
			{freshSQL + `SET LOCAL ROLE {carol}; SELECT b FROM app.body()`, "ERROR 42501"},
			{freshSQL + `SELECT n, b FROM app.by_function`, "1|fresh"},
			{`SELECT app."Add; it's"(66, 'q', 'r'); SELECT b FROM app.t WHERE a = 66`, "q!"},
			{freshSQL + `CALL app.remove(77); SELECT count(*) FROM app.t WHERE a = 77`, "0"},
		},
	},
	{
		name: "SQL-standard body grouped by the primary key",
		setup: `CREATE FUNCTION app.f() RETURNS text LANGUAGE sql BEGIN ATOMIC
			SELECT string_agg(x.b, ',') FROM (SELECT t.b, count(l.n) FROM app.t LEFT JOIN app.log l ON l.n = t.id WHERE t.id > 4999 GROUP BY t.id) x; END`,
		probes: []probe{{freshSQL + `SELECT app.f()`, "fresh"}},
	},
	{
		name: "bodies that are text",
		setup: `CREATE FUNCTION app.plain(x int) RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM app.t WHERE a = x';
			CREATE FUNCTION app.pl(x int) RETURNS text LANGUAGE plpgsql AS $$ DECLARE r app.t%ROWTYPE; BEGIN SELECT * INTO r FROM app.t WHERE a = x; RETURN r.b; END $$`,
		probes: []probe{{freshSQL + `SELECT app.plain(77), app.pl(77)`, "1|fresh"}},
	},
	{
		name: "used by the table itself",
		setup: `CREATE FUNCTION app.known(x int) RETURNS bool LANGUAGE sql STABLE BEGIN ATOMIC SELECT x = 99 OR EXISTS (SELECT FROM app.t WHERE t.a = x); END;
			CREATE FUNCTION app.next() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT max(a) + 1 FROM app.t; END;
			CREATE FUNCTION app.twice(x int) RETURNS int LANGUAGE sql IMMUTABLE RETURN 2 * x;
			ALTER TABLE app.t ALTER a SET DEFAULT app.next(), ADD d int GENERATED ALWAYS AS (app.twice(a)) STORED, ADD CHECK (app.twice(a) < 1000);
			CREATE INDEX ON app.t (app.twice(a)) WHERE app.twice(a) > 3;
			CREATE POLICY p ON app.t USING (app.known(a))`,
		probes: []probe{{freshSQL + `INSERT INTO app.t (b) VALUES ('x') RETURNING a, d`, "78|156"}, {`UPDATE app.t SET a = 500`, "ERROR 23514"}},
	},
}

// TestPublicationsCarried: what is published of the table, and that nothing
// else is.
func TestPublicationsCarried(t *testing.T) {
	runTogether(t, publicationCases, generatedPublicationCases)
}

// publishedSQL is what a subscriber of some publications would be told.
const publishedSQL = `SELECT pubname, schemaname, tablename FROM pg_publication_tables WHERE pubname IN (%s) ORDER BY 1, 2, 3`

var publicationCases = []carriedCase{
	{
		name: "by table",
		setup: `CREATE SCHEMA far; CREATE TABLE far.other (id int PRIMARY KEY);
			CREATE PUBLICATION "pub; it's" FOR TABLE app.t, far.other WITH (publish = 'insert, delete', publish_via_partition_root);
			CREATE PUBLICATION alone FOR TABLE ONLY app.t; CREATE PUBLICATION empty; CREATE PUBLICATION others FOR TABLE far.other;
			GRANT CREATE ON DATABASE ` + "{database}" + ` TO {alice}; ALTER TABLE app.t OWNER TO {alice}; ALTER PUBLICATION alone OWNER TO {alice};
			COMMENT ON PUBLICATION alone IS 'alone'`,
		probes: []probe{{
			fmt.Sprintf(publishedSQL, `'pub; it''s', 'alone', 'empty', 'others'`),
			"alone|app|t\nothers|far|other\npub; it's|app|t\npub; it's|far|other",
		}},
	},
	{
		name: "row filters and columns", since: 15,
		setup: `ALTER TABLE app.t ADD "Odd; col" int, REPLICA IDENTITY FULL;
			CREATE PUBLICATION filtered FOR TABLE app.t WHERE (a > 3 AND b <> ' WHERE ');
			CREATE PUBLICATION columns FOR TABLE app.t ("Odd; col", id) WITH (publish = 'insert');
			CREATE PUBLICATION "both" FOR TABLE app.t (b, id) WHERE (id < 9 OR "Odd; col" IS NULL) WITH (publish = 'insert')`,
		probes: []probe{{
			`SELECT pubname, tablename, attnames, rowfilter FROM pg_publication_tables WHERE pubname IN ('both', 'columns', 'filtered') ORDER BY 1`,
			"both|t|{id,b}|((id < 9) OR (\"Odd; col\" IS NULL))\ncolumns|t|{id,\"Odd; col\"}|\nfiltered|t|{id,a,b,\"Odd; col\"}|((a > 3) AND (b <> ' WHERE '::text))",
		}},
	},
	{
		name: "by schema", since: 15,
		setup:  `CREATE PUBLICATION whole FOR TABLES IN SCHEMA app; CREATE PUBLICATION mixed FOR TABLES IN SCHEMA public, TABLE app.t WHERE (id > 4)`,
		probes: []probe{{fmt.Sprintf(publishedSQL, `'whole', 'mixed'`), "mixed|app|t\nwhole|app|log\nwhole|app|t"}},
	},
	{
		name: "by schema and by table with a filter", since: 15,
		setup: `CREATE PUBLICATION doubly FOR TABLES IN SCHEMA app, TABLE app.t WHERE (id > 4)`,
		probes: []probe{{`ALTER PUBLICATION doubly DROP TABLES IN SCHEMA app;
			SELECT pubname, schemaname, tablename, rowfilter FROM pg_publication_tables WHERE pubname = 'doubly'`, "doubly|app|t|(id > 4)"}},
	},
}

// generatedPublicationCases publish too few columns for a table that is its own
// replica identity.
var generatedPublicationCases = []carriedCase{
	{
		name: "generated columns", since: 18,
		setup: `ALTER TABLE app.t ADD g int GENERATED ALWAYS AS (a + 1) STORED;
			CREATE PUBLICATION g FOR TABLE app.t (id, g) WITH (publish_generated_columns = stored)`,
		probes: []probe{{`SELECT pubname, attnames FROM pg_publication_tables`, "g|{id,g}"}},
	},
}

// TestStatisticsCarried: extended statistics, of which the planner has data as
// soon as the tables are exchanged.
func TestStatisticsCarried(t *testing.T) { runTogether(t, statisticsCases) }

// analysedSQL counts the statistics objects, of some that are given, that have data.
const analysedSQL = `
SELECT s.stxnamespace::regnamespace, s.stxname, count(d.stxoid)
FROM   pg_statistic_ext s LEFT JOIN pg_statistic_ext_data d ON d.stxoid = s.oid
WHERE  s.stxrelid = 'app.t'::regclass AND s.stxstattarget IS DISTINCT FROM 0 AND s.stxname IN (%s) GROUP BY s.oid ORDER BY s.stxname`

var statisticsCases = []carriedCase{
	{
		name: "kinds, targets, owners",
		setup: `CREATE STATISTICS app."s; it's" (ndistinct, mcv) ON a, b FROM app.t; CREATE STATISTICS app.most ON id, a, b FROM app.t;
			CREATE STATISTICS app.dependent (dependencies) ON b, a FROM app.t;
			ALTER STATISTICS app.most SET STATISTICS 777; ALTER STATISTICS app.dependent SET STATISTICS 0;
			GRANT CREATE ON SCHEMA app TO {alice}; ALTER STATISTICS app.most OWNER TO {alice};
			COMMENT ON STATISTICS app."s; it's" IS 'it''s'; ANALYZE app.t`,
		probes: []probe{{fmt.Sprintf(analysedSQL, `'s; it''s', 'most', 'dependent'`), "app|most|1\napp|s; it's|1"}},
	},
	{
		name: "in other schemas, on expressions",
		setup: `CREATE SCHEMA "Stats; 1";
			CREATE STATISTICS "Stats; 1".one ON (a + 1) FROM app.t;
			CREATE STATISTICS "Stats; 1".two (mcv) ON a, (lower(b)), (a % 3) FROM app.t;
			CREATE STATISTICS app.three ON (b || ' FROM app.t'), (a * 2) FROM app.t;
			ALTER STATISTICS "Stats; 1".two SET STATISTICS 55;
			ANALYZE app.t;
			COMMENT ON STATISTICS "Stats; 1".two IS 'two'`,
		probes: []probe{{fmt.Sprintf(analysedSQL, `'one', 'two', 'three'`), "\"Stats; 1\"|one|1\napp|three|1\n\"Stats; 1\"|two|1"}},
	},
}

// TestConstraintsCarried: constraints in states that are not the usual, with
// rows that violate them.
func TestConstraintsCarried(t *testing.T) {
	runTogether(t, constraintStateCases, unenforcedCases)
}

var constraintStateCases = []carriedCase{
	{
		name: "deferrable",
		setup: `ALTER TABLE app.t ADD u int, ADD CONSTRAINT unique_later UNIQUE (u) DEFERRABLE INITIALLY DEFERRED, ADD CONSTRAINT not_near EXCLUDE USING gist (int4range(u, u, '[]') WITH &&) WHERE (u > 0) DEFERRABLE;
			UPDATE app.t SET u = id;
			CREATE TABLE app.near (t int REFERENCES app.t ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED, u int REFERENCES app.t (id) MATCH FULL ON DELETE SET DEFAULT)`,
		probes: []probe{
			{`UPDATE app.t SET u = 7 WHERE id = 8`, "ERROR 23P01"},
			{`SET CONSTRAINTS ALL DEFERRED;
				UPDATE app.t SET u = 7 WHERE id = 8;
				UPDATE app.t SET u = 8 WHERE id = 7;
				SET CONSTRAINTS ALL IMMEDIATE;
				SELECT u FROM app.t WHERE id IN (7, 8) ORDER BY id`, "8\n7"},
			{`INSERT INTO app.near VALUES (555555, 1); SELECT 'later'`, "later"},
			{`INSERT INTO app.near VALUES (555555, 1); SET CONSTRAINTS app.near_t_fkey IMMEDIATE`, "ERROR 23503"},
		},
	},
	{
		name: "not valid",
		setup: `CREATE TABLE app.parent (id int PRIMARY KEY);
			INSERT INTO app.parent VALUES (1), (2);
			ALTER TABLE app.t ADD CONSTRAINT later CHECK (id <> 50) NOT VALID, ADD CONSTRAINT "fk; later" FOREIGN KEY (a) REFERENCES app.parent ON DELETE SET NULL DEFERRABLE NOT VALID;
			CREATE TABLE app.child (t int);
			INSERT INTO app.child VALUES (999999);
			ALTER TABLE app.child ADD CONSTRAINT orphan FOREIGN KEY (t) REFERENCES app.t ON DELETE CASCADE NOT VALID;
			COMMENT ON CONSTRAINT later ON app.t IS 'later';
			COMMENT ON CONSTRAINT "fk; later" ON app.t IS 'fk';
			COMMENT ON CONSTRAINT orphan ON app.child IS 'orphan';
			UPDATE app.t SET a = NULL WHERE id = 3`,
		write: `INSERT INTO app.child VALUES (1)`,
		probes: []probe{
			{`UPDATE app.t SET b = 'x' WHERE id = 50`, "ERROR 23514"},
			{`INSERT INTO app.t (a) VALUES (3)`, "ERROR 23503"},
			{`UPDATE app.t SET b = 'x' WHERE id = 5 RETURNING a`, "5"},
			{`INSERT INTO app.child VALUES (888888)`, "ERROR 23503"},
			{`SELECT count(*) FROM app.child WHERE t > 800000`, "1"},
			{`ALTER TABLE app.t VALIDATE CONSTRAINT "fk; later"`, "ERROR 23503"},
			{`DELETE FROM app.parent WHERE id = 2; SELECT count(*) FROM app.t WHERE id = 2 AND a IS NULL`, "1"},
		},
	},
}

// unenforcedCases have constraints that the rows of the others violate.
var unenforcedCases = []carriedCase{
	{
		name: "not enforced", since: 18,
		setup: `CREATE TABLE app.parent (id int PRIMARY KEY);
			ALTER TABLE app.t ADD CONSTRAINT no_check CHECK (a < 0) NOT ENFORCED, ADD CONSTRAINT no_key FOREIGN KEY (a) REFERENCES app.parent NOT ENFORCED,
			ADD CONSTRAINT "b; there" NOT NULL b, ADD CONSTRAINT a_later NOT NULL a NOT VALID, ADD v int GENERATED ALWAYS AS (a * 2) VIRTUAL;
			COMMENT ON CONSTRAINT "b; there" ON app.t IS 'there'; COMMENT ON CONSTRAINT no_check ON app.t IS 'no'`,
		probes: []probe{{`INSERT INTO app.t (a) VALUES (4) RETURNING v`, "8"}, {`INSERT INTO app.t (a) VALUES (NULL)`, "ERROR 23502"}},
	},
}
