package tests

import "testing"

// TestRowTypeCarried: functions, aggregates, operators and casts of the table's row
// type, and what calls them.
func TestRowTypeCarried(t *testing.T) { runTogether(t, rowTypeCases) }

var rowTypeCases = []carriedCase{
	{
		name: "arguments and results",
		setup: `CREATE FUNCTION app.label(r app.t) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE COST 17 AS $$ SELECT r.id || ':' || coalesce(r.b, '') $$;
			GRANT CREATE ON SCHEMA app TO {alice};
			ALTER FUNCTION app.label OWNER TO {alice};
			COMMENT ON FUNCTION app.label IS 'it''s computed';
			REVOKE EXECUTE ON FUNCTION app.label FROM PUBLIC;
			GRANT EXECUTE ON FUNCTION app.label TO {bob} WITH GRANT OPTION;
			SET ROLE {bob};
			GRANT EXECUTE ON FUNCTION app.label TO {carol};
			RESET ROLE;
			CREATE FUNCTION app."Next; it's"(n int DEFAULT 3) RETURNS SETOF app.t LANGUAGE plpgsql SECURITY DEFINER ROWS 7 SET work_mem = '5MB' SET search_path = app, "My; Schema"
			AS $$ BEGIN RETURN QUERY SELECT * FROM t ORDER BY id LIMIT n; END $$;
			CREATE FUNCTION app.one(bigint) RETURNS app.t LANGUAGE sql STABLE STRICT LEAKPROOF AS 'SELECT * FROM app.t WHERE id = $1';
			CREATE FUNCTION app.tab(x int) RETURNS TABLE (n int, r app.t) LANGUAGE sql AS 'SELECT 1, t FROM app.t WHERE id = x';
			CREATE FUNCTION app.out(x int, OUT r app.t, OUT n int) LANGUAGE sql AS 'SELECT t, 2 FROM app.t WHERE id = x';
			CREATE FUNCTION app.many(VARIADIC x app.t[] DEFAULT '{}') RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT cardinality(x)';
			CREATE FUNCTION app.many(int, text) RETURNS app.t[] LANGUAGE sql AS 'SELECT array_agg(t ORDER BY id) FROM app.t WHERE id <= $1';
			CREATE FUNCTION app.many(app.t, int) RETURNS int LANGUAGE sql AS 'SELECT $2';
			CREATE PROCEDURE app.store(r app.t, INOUT n int DEFAULT 5) LANGUAGE plpgsql AS 'BEGIN INSERT INTO app.log (what) VALUES (r.b); n := n + 1; END';
			CREATE PROCEDURE app.give(OUT r app.t) LANGUAGE plpgsql AS 'DECLARE x app.t; y app.t%ROWTYPE; BEGIN SELECT * INTO x FROM app.t WHERE id = 2; y := x; r := y; END';
			COMMENT ON PROCEDURE app.store IS 'stores';
			GRANT EXECUTE ON PROCEDURE app.store TO {bob};
			CREATE FUNCTION app.like(app.t, text) RETURNS bool LANGUAGE sql STABLE SUPPORT textlike_support AS 'SELECT $1.b LIKE $2'`,
		probes: []probe{
			{`SET LOCAL search_path = app; SELECT app.label(t), t.label FROM app.t WHERE id = 2`, "2:b2|2:b2"},
			{`SET LOCAL ROLE {carol}; SELECT app.label(ROW(1, 2, 'x'))`, "1:x"},
			{`SELECT count(*), min(b) FROM app."Next; it's"()`, "3|b1"},
			{`SELECT (app.one(4)).b, n, (r).b FROM app.tab(5)`, "b4|1|b5"},
			{`SELECT n, (r).b, (r).id FROM app.out(6)`, "2|b6|6"},
			{`SELECT app.many(t, t), app.many(), cardinality(app.many(3, '')), app.many(t, 9) FROM app.t WHERE id = 2`, "2|0|3|9"},
			{`CALL app.store(ROW(1, 2, 'stored')::app.t); SELECT what FROM app.log WHERE what = 'stored'`, "stored"},
			{`CALL app.give(NULL)`, "(2,2,b2)"},
			{`SELECT count(*) FROM app.t WHERE app.like(t, 'b1_')`, "10"},
		},
	},
	{
		name: "called by SQL-standard bodies, defaults, and each other",
		setup: `CREATE FUNCTION app.low(r app.t) RETURNS text LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT lower(r.b); END;
			CREATE FUNCTION app.higher(r app.t, x text DEFAULT app.low(ROW(1, 2, 'DEF')::app.t)) RETURNS text LANGUAGE sql IMMUTABLE RETURN upper(app.low(r)) || x;
			CREATE FUNCTION app.a_first(r app.t) RETURNS text LANGUAGE sql RETURN (SELECT app.higher(r) || count(*) FROM app.t WHERE id < 3 AND b IN ('b1', 'b2'));
			CREATE FUNCTION app.counts() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(app.low(t.*)) FROM app.t WHERE id < 4; END;
			CREATE FUNCTION app.only_type() RETURNS text LANGUAGE sql RETURN (ROW(1, 2, 'x')::app.t).b;
			CREATE FUNCTION app.with_default(x text DEFAULT app.low(ROW(1, 2, 'ABC'))) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN x; END'`,
		probes: []probe{
			{`SELECT app.higher(t), app.a_first(t) FROM app.t WHERE id = 2`, "B2def|B2def2"},
			{`SELECT app.counts(), app.only_type(), app.with_default()`, "3|x|abc"},
		},
	},
	{
		name: "aggregates",
		setup: `CREATE FUNCTION app.add(int, app.t) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2.id';
			CREATE FUNCTION app.subtract(int, app.t) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 - $2.id';
			CREATE FUNCTION app.latter(app.t, app.t) RETURNS app.t LANGUAGE sql IMMUTABLE AS 'SELECT $2';
			CREATE FUNCTION app.put(app.t, int) RETURNS app.t LANGUAGE sql IMMUTABLE AS $$ SELECT $2, $2, coalesce($1.b, '') || $2 $$;
			CREATE FUNCTION app.said(app.t) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1.b';
			CREATE AGGREGATE app.total(r app.t) (SFUNC = app.add, STYPE = int, INITCOND = '0', COMBINEFUNC = int4pl, PARALLEL = SAFE,
				MSFUNC = app.add, MINVFUNC = app.subtract, MSTYPE = int, MINITCOND = '0', SSPACE = 64);
			CREATE AGGREGATE app.newest(app.t) (SFUNC = app.latter, STYPE = app.t);
			CREATE AGGREGATE app.said_all(int) (SFUNC = app.put, STYPE = app.t, FINALFUNC = app.said, FINALFUNC_MODIFY = SHAREABLE);
			CREATE AGGREGATE app.sorted(ORDER BY app.t) (SFUNC = app.add, STYPE = int, INITCOND = '0');
			CREATE AGGREGATE app.most(app.t[]) (SFUNC = array_cat, STYPE = app.t[]);
			COMMENT ON AGGREGATE app.total(app.t) IS 'total';
			ALTER AGGREGATE app.newest(app.t) OWNER TO {alice};
			REVOKE ALL ON FUNCTION app.newest FROM PUBLIC;
			GRANT EXECUTE ON FUNCTION app.newest TO {bob};
			CREATE VIEW app.totals AS SELECT app.total(t) AS n, (app.newest(t ORDER BY id)).b, app.said_all(a ORDER BY id) FROM app.t WHERE id < 3;
			CREATE FUNCTION app.total_of() RETURNS int LANGUAGE sql RETURN (SELECT app.total(t) FROM app.t WHERE id < 4)`,
		probes: []probe{
			{`TABLE app.totals`, "3|b2|12"},
			{`SELECT app.total_of(), app.sorted() WITHIN GROUP (ORDER BY t), cardinality(app.most(ARRAY[t])) FROM app.t WHERE id < 3`, "6|3|2"},
			{`SELECT app.total(t) OVER (ORDER BY id ROWS 1 PRECEDING) FROM app.t WHERE id < 4`, "1\n3\n5"},
		},
	},
	{
		name: "operators and casts",
		setup: `CREATE FUNCTION app.same(app.t, app.t) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1.b = $2.b';
			CREATE FUNCTION app.differ(app.t, app.t) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1.b <> $2.b';
			CREATE FUNCTION app.shout(app.t) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1.b)';
			CREATE FUNCTION app.made(text) RETURNS app.t LANGUAGE sql IMMUTABLE AS 'SELECT 0, 0, $1';
			CREATE FUNCTION app.nth(int, int) RETURNS app.t LANGUAGE sql STABLE AS 'SELECT * FROM app.t WHERE id = $1 + $2';
			CREATE OPERATOR app.=== (FUNCTION = app.same, LEFTARG = app.t, RIGHTARG = app.t, COMMUTATOR = OPERATOR(app.===), NEGATOR = OPERATOR(app.!==), RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES);
			CREATE OPERATOR app.!== (FUNCTION = app.differ, LEFTARG = app.t, RIGHTARG = app.t, COMMUTATOR = OPERATOR(app.!==), NEGATOR = OPERATOR(app.===));
			CREATE OPERATOR app.!! (FUNCTION = app.shout, RIGHTARG = app.t);
			CREATE OPERATOR app.%% (FUNCTION = app.nth, LEFTARG = int, RIGHTARG = int);
			COMMENT ON OPERATOR app.=== (app.t, app.t) IS 'same';
			GRANT CREATE ON SCHEMA app TO {alice};
			ALTER OPERATOR app.!! (NONE, app.t) OWNER TO {alice};
			CREATE CAST (app.t AS text) WITH FUNCTION app.shout(app.t) AS ASSIGNMENT;
			CREATE CAST (text AS app.t) WITH FUNCTION app.made(text) AS IMPLICIT;
			CREATE CAST (app.t AS varchar) WITH INOUT;
			COMMENT ON CAST (app.t AS text) IS 'shouts';
			CREATE FUNCTION app.aaa(app.t) RETURNS text LANGUAGE sql RETURN ($1)::text || (OPERATOR(app.!!) $1);
			CREATE VIEW app.cast AS SELECT t::text AS s, OPERATOR(app.!!) t AS u, t OPERATOR(app.===) 'b2'::text AS v, (1 OPERATOR(app.%%) 2).b FROM app.t WHERE id = 2`,
		probes: []probe{
			{`SELECT app.aaa(t), t::varchar FROM app.t WHERE id = 2`, "B2B2|(2,2,b2)"},
			{`TABLE app.cast`, "B2|B2|t|b3"},
			{`SELECT count(*) FROM app.t x JOIN app.t y ON x OPERATOR(app.===) y WHERE x.id < 5 AND y.id < 5`, "4"},
		},
	},
	{
		name: "called by what belongs to the table and to others",
		setup: `CREATE FUNCTION app.known(app.t) RETURNS bool LANGUAGE sql STABLE AS 'SELECT $1.id < 3';
			CREATE FUNCTION app.number(app.t) RETURNS int LANGUAGE sql STABLE AS 'SELECT coalesce($1.id, 8)';
			CREATE FUNCTION app.get(bigint) RETURNS app.t LANGUAGE sql STABLE AS 'SELECT * FROM app.t WHERE id = $1';
			GRANT SELECT ON app.t, app.log TO {bob};
			ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
			ALTER TABLE app.log ENABLE ROW LEVEL SECURITY;
			CREATE POLICY known ON app.t USING (app.known(t.*) AND app.known(ROW(t.id, 2, 'x')));
			CREATE POLICY p ON app.log USING (app.known(ROW(log.n, 2, log.what)::app.t));
			ALTER TABLE app.t ALTER a SET DEFAULT app.number(NULL::app.t);
			CREATE TRIGGER noted AFTER UPDATE ON app.t FOR EACH ROW WHEN (app.number(new.*) > 50 AND new.b IN ('x', 'y')) EXECUTE FUNCTION app.note();
			CREATE RULE marked AS ON INSERT TO app.t WHERE app.number(new.*) < 0 DO ALSO INSERT INTO app.log (what) VALUES ('rule');
			CREATE TABLE app.other (n int, x int DEFAULT app.number(ROW(7, 1, '')), y text DEFAULT (app.get(2)).b);
			CREATE TRIGGER t1 BEFORE INSERT ON app.other FOR EACH ROW WHEN (app.number(ROW(new.n, 1, '')) > 5) EXECUTE FUNCTION app.note();
			CREATE TRIGGER t2 BEFORE INSERT ON app.other FOR EACH ROW WHEN (app.number(ROW(new.n, 1, '')) > 0) EXECUTE FUNCTION app.note();
			ALTER TABLE app.other ENABLE ALWAYS TRIGGER t1, DISABLE TRIGGER t2;
			COMMENT ON TRIGGER t1 ON app.other IS 't1';
			CREATE RULE r AS ON DELETE TO app.other WHERE app.known(ROW(old.n, 1, '')) DO ALSO INSERT INTO app.log (what) VALUES ('known');
			SET search_path = app;
			CREATE VIEW app.calls AS SELECT t.known, app.number(t) AS n FROM app.t;
			ALTER VIEW app.calls ALTER n SET DEFAULT app.number(NULL);
			RESET search_path;
			CREATE VIEW app.apart AS SELECT (app.get(n)).b, (ROW(1, 2, 'x')::app.t).a FROM app.other;
			CREATE VIEW app.above AS SELECT * FROM app.calls`,
		probes: []probe{
			{`SET LOCAL ROLE {bob}; SELECT count(*) FROM app.t`, "2"},
			{`INSERT INTO app.t (id) VALUES (900) RETURNING a`, "8"},
			{`UPDATE app.t SET b = 'x' WHERE id IN (3, 60); SELECT count(*) FROM app.log WHERE what LIKE 'noted %'`, "1"},
			{`INSERT INTO app.t (id) VALUES (-5); SELECT count(*) FROM app.log WHERE what = 'rule'`, "1"},
			{`INSERT INTO app.other (n) VALUES (6), (2); SELECT string_agg(what, ',') FROM app.log WHERE what LIKE 't_ %'`, "t1 BEFORE INSERT ROW app.other"},
			{`INSERT INTO app.other (n) VALUES (2) RETURNING x, y`, "7|b2"},
			{`INSERT INTO app.other (n) VALUES (2), (9); DELETE FROM app.other; SELECT count(*) FROM app.log WHERE what = 'known'`, "1"},
			{`INSERT INTO app.other (n) VALUES (2); SELECT * FROM app.apart, app.above WHERE n = 3`, "b2|2|f|3"},
		},
	},
	{
		name: "default privileges",
		setup: `CREATE FUNCTION app.plain(app.t) RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
			ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT EXECUTE ON FUNCTIONS TO {carol}`,
		probes: []probe{{`SET LOCAL ROLE {bob}; SELECT app.plain(NULL)`, "1"}},
	},
}
