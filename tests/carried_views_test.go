package tests

import "testing"

// TestViewsCarried: views on the table stay the objects they are, and show the
// table in use.
func TestViewsCarried(t *testing.T) {
	runTogether(t, viewCases, writtenViewCases, shyViewCases)
}

// freshSQL is a row that only the table in use has.
const freshSQL = `INSERT INTO app.t (id, a, b) VALUES (5000, 77, 'fresh');`

var viewCases = []carriedCase{
	{
		name: "views on views, joins and unions",
		setup: `CREATE TABLE app.other (id int PRIMARY KEY, t int REFERENCES app.t, b text);
			INSERT INTO app.other SELECT g, g, 'o' || g FROM generate_series(1, 20) g;
			CREATE VIEW app.z_first AS SELECT * FROM app.t;
			CREATE VIEW app.a_second AS SELECT z.id, o.b FROM app.z_first z JOIN app.other o ON o.t = z.id;
			CREATE VIEW app.b_both AS SELECT s.id, t.b FROM app.a_second s LEFT JOIN app.t USING (id) UNION ALL SELECT max(id), 'max' FROM app.t UNION SELECT -1, what FROM app.log;
			CREATE VIEW app.c_using AS SELECT * FROM app.t FULL JOIN app.other USING (id, b) NATURAL JOIN (SELECT id, a FROM app.t AS t) AS t2;
			CREATE VIEW app.d_self AS SELECT x.id, y.id AS up, (SELECT count(*) FROM app.t WHERE t.a = x.a) FROM app.t x, app.t y, LATERAL (SELECT x.id + y.id) z(n) WHERE x.id = y.a;
			CREATE VIEW app.e_whole AS SELECT row_to_json(t) AS r, t IS NULL AS n, to_jsonb(t.*) ? 'a' AS has FROM app.t;
			CREATE VIEW app.f_sample AS SELECT id FROM ONLY app.t TABLESAMPLE system (100) REPEATABLE (1);
			CREATE VIEW app.g_sys AS SELECT tableoid::regclass AS r, 'app.t'::regclass AS c, ctid IS NULL AS x FROM app.t WHERE id = 1;
			COMMENT ON VIEW app.b_both IS 'both';
			GRANT SELECT ON app.a_second TO {alice}`,
		probes: []probe{
			{`INSERT INTO app.t (id, b) VALUES (5000, 'x'); INSERT INTO app.other VALUES (5000, 5000, 'y'); SELECT id, b FROM app.a_second WHERE id = 5000`, "5000|y"},
			{freshSQL + `SELECT b FROM app.b_both WHERE id = 5000`, "max"},
			{freshSQL + `SELECT r ->> 'b', n, has FROM app.e_whole WHERE (r ->> 'id')::int = 5000`, "fresh|f|t"},
			{freshSQL + `SELECT count(*) FROM app.f_sample WHERE id = 5000`, "1"},
			{`SELECT r, c, x FROM app.g_sys`, "app.t|app.t|f"},
			{`SET ROLE {alice}; SELECT count(*) FROM app.a_second WHERE id < 5`, "4"},
		},
	},
	{
		name: "grouped by the primary key",
		setup: `CREATE VIEW app.grouped AS SELECT t.id, t.b, count(l.n) AS n FROM app.t LEFT JOIN app.log l ON l.n = t.id GROUP BY t.id;
			CREATE VIEW app.windowed AS SELECT DISTINCT ON (a) a, id, rank() OVER w, sum(a) FILTER (WHERE b <> '') OVER (PARTITION BY b) AS s FROM app.t WINDOW w AS (ORDER BY id) ORDER BY a, id DESC FETCH FIRST 9 ROWS WITH TIES;
			CREATE VIEW app.cubed AS SELECT a, b, grouping(a, b), count(*) FROM app.t GROUP BY GROUPING SETS ((a), CUBE (a, b)), id HAVING count(*) > 0`,
		probes: []probe{
			{freshSQL + `SELECT b FROM app.grouped WHERE id = 5000`, "fresh"},
			{freshSQL + `SELECT count(*) FROM app.cubed WHERE b = 'fresh' AND grouping = 0`, "1"},
			{`ALTER TABLE app.t DROP CONSTRAINT t_pkey`, "ERROR 2BP01"},
		},
	},
	{
		name: "recursive and with common tables",
		setup: `CREATE RECURSIVE VIEW app.chain (id, depth) AS SELECT id, 0 FROM app.t WHERE id = 1 UNION ALL SELECT t.id, c.depth + 1 FROM app.t JOIN chain c ON t.id = c.id * 2 WHERE depth < 5;
			CREATE VIEW app.ctes AS WITH x AS MATERIALIZED (SELECT * FROM app.t), y AS NOT MATERIALIZED (SELECT id FROM x WHERE a > 3) SELECT count(*) AS n FROM y;
			CREATE VIEW app.searched AS WITH RECURSIVE s AS (SELECT id, a FROM app.t WHERE id = 1 UNION ALL SELECT t.id, t.a FROM app.t JOIN s ON t.id = s.id + 1 AND t.id < 5)
			SEARCH DEPTH FIRST BY id SET o CYCLE id SET looped USING path SELECT id, o::text, looped, path::text FROM s`,
		probes: []probe{
			{`SELECT count(*), max(depth) FROM app.chain WHERE id <> 3`, "6|5"},
			{freshSQL + `SELECT (SELECT n FROM app.ctes) - (SELECT count(*) FROM app.t WHERE a > 3)`, "0"},
			{`SELECT count(*) FROM app.searched`, "4"},
		},
	},
	{
		name: "materialized view on a view on the table",
		setup: `CREATE VIEW app.counted AS SELECT a, count(*) AS n FROM app.t GROUP BY a;
			CREATE MATERIALIZED VIEW app.summed AS SELECT sum(n) AS rows FROM app.counted;
			CREATE UNIQUE INDEX ON app.summed (rows); COMMENT ON MATERIALIZED VIEW app.summed IS 'm'`,
		probes: []probe{{freshSQL + `REFRESH MATERIALIZED VIEW app.summed; SELECT summed.rows - (SELECT count(*) FROM app.t) FROM app.summed`, "0"}},
	},
	{
		name: "that uses the table's type and rows",
		setup: `CREATE VIEW app.populated AS SELECT r.a, r.b, t.id FROM app.log, jsonb_populate_record(NULL::app.t, what::jsonb) r, app.t WHERE t.a = r.a;
			CREATE VIEW app.made AS SELECT (ROW(t.id, 5, 'x')::app.t).a FROM app.t;
			INSERT INTO app.log (what) VALUES ('{"a": 77}')`,
		probes: []probe{{freshSQL + `SELECT id FROM app.populated`, "5000"}, {`SELECT DISTINCT a FROM app.made`, "5"}},
	},
	{
		name: "in other schemas, of the table's name",
		setup: `CREATE SCHEMA "Other";
			CREATE VIEW "Other".t AS SELECT * FROM app.t;
			CREATE VIEW "Other"."select" AS SELECT t.b, x.a FROM "Other".t JOIN app.t x USING (id);
			CREATE VIEW public.t AS SELECT id FROM "Other".t`,
		probes: []probe{{freshSQL + `SELECT b, a FROM "Other"."select" WHERE a = 77`, "fresh|77"}, {freshSQL + `SELECT id FROM public.t WHERE id = 5000`, "5000"}},
	},
}

// writtenViewCases are written to, which the tables of other cases would not allow.
var writtenViewCases = []carriedCase{
	{
		name: "options, owner, grants, comments, defaults",
		setup: `CREATE VIEW app."The; view" WITH (security_barrier, check_option = cascaded) AS SELECT id AS "It's", a, b FROM app.t WHERE a >= 0;
			ALTER VIEW app."The; view" ALTER b SET DEFAULT 'from the view';
			ALTER VIEW app."The; view" RENAME a TO "number %s";
			GRANT SELECT ON app.t TO {alice}; GRANT INSERT ON app.t TO {alice};
			ALTER VIEW app."The; view" OWNER TO {alice};
			SET ROLE {alice}; GRANT SELECT ON app."The; view" TO {bob} WITH GRANT OPTION; GRANT INSERT ("It's", "number %s") ON app."The; view" TO {carol}; RESET ROLE;
			SET ROLE {bob}; GRANT SELECT ON app."The; view" TO {carol}; RESET ROLE;
			COMMENT ON VIEW app."The; view" IS 'it''s a view'; COMMENT ON COLUMN app."The; view"."It's" IS 'id'`,
		probes: []probe{
			{freshSQL + `SET LOCAL ROLE {bob}; SELECT b FROM app."The; view" WHERE "number %s" = 77`, "fresh"},
			{`SET ROLE {carol};
				INSERT INTO app."The; view" ("It's", "number %s") VALUES (5001, 8);
				RESET ROLE;
				SELECT a, b FROM app.t WHERE id = 5001`, "8|from the view"},
			{`SET ROLE {carol}; INSERT INTO app."The; view" ("It's", "number %s") VALUES (5001, -8)`, "ERROR 44000"},
			{`SET ROLE {carol}; SELECT count(*) FROM app.t`, "ERROR 42501"},
			{`DROP TABLE app.t`, "ERROR 2BP01"},
		},
	},
	{
		name: "written to through INSTEAD OF triggers",
		setup: `CREATE VIEW app.upper AS SELECT id, upper(b) AS b FROM app.t;
			CREATE FUNCTION app.instead() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
			    IF TG_OP = 'INSERT' THEN INSERT INTO app.t (id, b) VALUES (NEW.id, 'in ' || NEW.b); RETURN NEW;
			    ELSIF TG_OP = 'UPDATE' THEN UPDATE app.t SET b = 'up ' || NEW.b WHERE id = OLD.id; RETURN NEW;
			    ELSE DELETE FROM app.t WHERE id = OLD.id; RETURN OLD; END IF;
			END $$;
			CREATE TRIGGER instead INSTEAD OF INSERT OR UPDATE OR DELETE ON app.upper FOR EACH ROW EXECUTE FUNCTION app.instead();
			CREATE TRIGGER around AFTER INSERT ON app.upper EXECUTE FUNCTION app.note();
			COMMENT ON TRIGGER instead ON app.upper IS 'instead'`,
		write: `INSERT INTO app.upper (id, b) SELECT max(id) + 1000, 'by view' FROM app.t; UPDATE app.upper SET b = 'seven' WHERE id = 7`,
		probes: []probe{
			{clean + `INSERT INTO app.upper VALUES (6000, 'x');
				SELECT b, (SELECT string_agg(what, ';') FROM app.log) FROM app.t WHERE id = 6000`, "in x|around AFTER INSERT STATEMENT app.upper"},
			{`UPDATE app.upper SET b = 'x' WHERE id = 5; SELECT b FROM app.t WHERE id = 5`, "up x"},
			{`DELETE FROM app.upper WHERE id = 5; SELECT count(*) FROM app.t WHERE id = 5`, "0"},
		},
	},
	{
		name: "written to through rules",
		setup: `CREATE VIEW app.ruled AS SELECT id, a, b FROM app.t;
			CREATE RULE "ins; it's" AS ON INSERT TO app.ruled DO INSTEAD INSERT INTO app.t (id, a, b) VALUES (NEW.id, NEW.a, 'rule ' || NEW.b) RETURNING id, a, b;
			CREATE RULE upd AS ON UPDATE TO app.ruled WHERE NEW.a > 5 DO INSTEAD (UPDATE app.t SET b = NEW.b WHERE id = OLD.id;
			INSERT INTO app.log (what) VALUES ('rule'));
			CREATE RULE upd_else AS ON UPDATE TO app.ruled DO INSTEAD NOTHING;
			CREATE RULE del AS ON DELETE TO app.ruled DO INSTEAD DELETE FROM app.t WHERE t.id = OLD.id RETURNING OLD.*;
			CREATE RULE "also" AS ON INSERT TO app.ruled DO ALSO NOTIFY view_written;
			COMMENT ON RULE "ins; it's" ON app.ruled IS 'insert'`,
		write: `INSERT INTO app.ruled (id, b) SELECT max(id) + 1000, 'by rule' FROM app.t; UPDATE app.ruled SET a = 9, b = 'nine' WHERE id = 7`,
		probes: []probe{
			{`INSERT INTO app.ruled VALUES (6000, 1, 'x') RETURNING b`, "rule x"},
			{clean + `UPDATE app.ruled SET a = 6, b = 'x' WHERE id = 5; SELECT a, b, (SELECT count(*) FROM app.log) FROM app.t WHERE id = 5`, "5|x|1"},
			{`UPDATE app.ruled SET a = 1 WHERE id = 5; SELECT a FROM app.t WHERE id = 5`, "5"},
			{`DELETE FROM app.ruled WHERE id = 6 RETURNING b`, "b6"},
		},
	},
}

// shyViewCases keep rows and a sequence from the owner of a view of another case.
var shyViewCases = []carriedCase{
	{
		name: "that reads its sequences",
		setup: `ALTER TABLE app.t ADD c serial;
			CREATE VIEW app.last_one AS SELECT last_value >= 100 AS many FROM app.t_c_seq; CREATE VIEW app.next_one AS SELECT nextval('app.t_c_seq') > 100 AS next`,
		probes: []probe{{`SELECT many, next FROM app.last_one, app.next_one`, "t|t"}},
	},
	{
		name: "security invoker", since: 15,
		setup: `CREATE VIEW app.v WITH (security_invoker = true, check_option = local) AS SELECT id, a FROM app.t WHERE id > 0;
			GRANT SELECT ON app.v TO {alice}, {bob}; GRANT SELECT ON app.t TO {alice};
			ALTER TABLE app.t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON app.t USING (id < 3)`,
		probes: []probe{
			{`SET ROLE {alice}; SELECT count(*) FROM app.v`, "2"},
			{`SET ROLE {bob}; SELECT count(*) FROM app.v`, "ERROR 42501"},
		},
	},
}

// TestRulesCarried: rules on the table and rules elsewhere that write to it.
func TestRulesCarried(t *testing.T) { runCarried(t, ruleCases) }

var ruleCases = []carriedCase{
	{
		name: "on the table",
		setup: `CREATE RULE "log; it" AS ON UPDATE TO app.t WHERE OLD.a IS DISTINCT FROM NEW.a DO ALSO INSERT INTO app.log (what) VALUES ('was ' || OLD.a || ' of ' || (SELECT count(*) FROM app.t WHERE id < 4));
			CREATE RULE keep AS ON DELETE TO app.t WHERE OLD.id < 50 DO INSTEAD UPDATE app.t SET b = 'deleted' WHERE id = OLD.id;
			CREATE RULE off AS ON UPDATE TO app.t DO INSTEAD NOTHING;
			ALTER TABLE app.t DISABLE RULE off;
			CREATE RULE replica AS ON UPDATE TO app.t DO ALSO INSERT INTO app.log (what) VALUES ('replica');
			ALTER TABLE app.t ENABLE REPLICA RULE replica;
			CREATE RULE always AS ON UPDATE TO app.t DO ALSO NOTIFY app_changed, 'it''s';
			ALTER TABLE app.t ENABLE ALWAYS RULE always;
			COMMENT ON RULE keep ON app.t IS 'it''s kept'`,
		probes: []probe{
			{clean + `UPDATE app.t SET a = a + 1 WHERE id = 5; SELECT what FROM app.log`, "was 5 of 3"},
			{clean + `SET LOCAL session_replication_role = replica; UPDATE app.t SET a = a + 1 WHERE id = 5; SELECT what FROM app.log`, "replica"},
			{`DELETE FROM app.t WHERE id = 5; SELECT b FROM app.t WHERE id = 5`, "deleted"},
		},
	},
	{
		name: "on the table, for INSERT",
		setup: `CREATE RULE ins AS ON INSERT TO app.t WHERE NEW.a = 99 DO INSTEAD NOTHING;
			CREATE RULE also AS ON INSERT TO app.t DO ALSO INSERT INTO app.log (what) VALUES (NEW.b)`,
		probes: []probe{{clean + `INSERT INTO app.t (a, b) VALUES (1, 'one'), (99, 'none');
			SELECT what, (SELECT count(*) FROM app.t WHERE a = 99) FROM app.log ORDER BY n`, "one|0\nnone|0"}},
	},
	{
		name: "of other tables",
		setup: `CREATE TABLE app.other (id int, b text);
			CREATE RULE copy AS ON INSERT TO app.other DO ALSO INSERT INTO app.t (a, b) VALUES (NEW.id, NEW.b);
			CREATE RULE upsert AS ON UPDATE TO app.other DO ALSO INSERT INTO app.t AS x (id, b) VALUES (OLD.id, NEW.b) ON CONFLICT ON CONSTRAINT t_pkey DO UPDATE SET b = EXCLUDED.b || x.a;
			CREATE RULE "off; it's" AS ON DELETE TO app.other WHERE EXISTS (SELECT FROM app.t WHERE t.id = OLD.id) DO ALSO DELETE FROM app.t WHERE id = OLD.id;
			ALTER TABLE app.other DISABLE RULE "off; it's";
			COMMENT ON RULE "off; it's" ON app.other IS 'off';
			INSERT INTO app.other VALUES (1, 'x')`,
		write: `INSERT INTO app.other VALUES (9, 'by rule')`,
		probes: []probe{
			{`INSERT INTO app.other VALUES (88, 'eighty-eight'); SELECT b FROM app.t WHERE a = 88`, "eighty-eight"},
			{`UPDATE app.other SET b = 'up' WHERE id = 1; SELECT b FROM app.t WHERE id = 1`, "up1"},
			{`DELETE FROM app.other WHERE id = 1; SELECT count(*) FROM app.t WHERE id = 1`, "1"},
		},
	},
}
