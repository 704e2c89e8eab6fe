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

const wideColumnsSQL = `
CREATE FUNCTION app.f() RETURNS text LANGUAGE sql AS 'SELECT ''f''::text';
CREATE FUNCTION app.twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1';
CREATE SEQUENCE app.free;
CREATE COLLATION app."My Coll" (provider = icu, locale = 'de-u-co-phonebk');
CREATE DOMAIN app.word AS text COLLATE "C";
CREATE TYPE app."Mood" AS ENUM ('a', 'b');
CREATE TYPE app.pair AS (a int, b text);
CREATE DOMAIN app.small AS int DEFAULT 5 CHECK (VALUE < 100) NOT NULL;
CREATE TYPE app.span AS RANGE (subtype = float8);
CREATE TABLE app.t (
    dead1 text, id int PRIMARY KEY DEFAULT nextval('app.free'), dead2 int, a int DEFAULT 2, dead3 text DEFAULT 'x', up int REFERENCES app.t,
    d1 text DEFAULT 'it''s; "x"', d2 text DEFAULT app.f(), d3 timestamptz DEFAULT now(), d4 int[] DEFAULT '{1,2}',
    d5 text DEFAULT NULL, d6 text DEFAULT E'a\nb\\c', d7 bool DEFAULT 1 < 2,
    i1 bigint GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME app."My Seq" START 5 INCREMENT -3 MINVALUE -1000 MAXVALUE 9 CACHE 4 CYCLE),
    i2 smallint GENERATED BY DEFAULT AS IDENTITY (MAXVALUE 30000),
    i3 int GENERATED ALWAYS AS IDENTITY,
    i4 bigint GENERATED BY DEFAULT AS IDENTITY (INCREMENT -2 MAXVALUE -5),
    s1 smallserial, s2 bigserial, s3 serial, o int,
    g1 int GENERATED ALWAYS AS (app.twice(a) + 1) STORED NOT NULL,
    g2 text COLLATE "C" GENERATED ALWAYS AS (upper('x' || a::text)) STORED,
    c1 text COLLATE "C", c2 text COLLATE app."My Coll", c3 app.word, c4 app.word COLLATE "POSIX", c5 text COLLATE "default",
    p1 text, p2 text, p3 text, p4 text, p5 numeric, z1 text COMPRESSION pglz, z2 text,
    t1 app."Mood", t2 app.pair[], t3 app.small DEFAULT 7, t4 app.span, t5 varchar(7), t6 char(3), t7 numeric(10, 2),
    t8 interval day to second(3), t9 bit(4), t10 varbit(9), t11 time(2) with time zone, t12 timestamp(0)[], t13 xml, t14 json, t15 point,
    t16 "char", t17 tsvector, t18 money, t19 inet, t20 name, t21 pg_lsn
);
ALTER SEQUENCE app.t_i3_seq AS bigint; ALTER SEQUENCE app.t_i4_seq AS smallint;
COMMENT ON SEQUENCE app."My Seq" IS 'the ''sequence'''; GRANT USAGE ON SEQUENCE app."My Seq" TO PUBLIC;
ALTER SEQUENCE app.t_s2_seq INCREMENT 7 CYCLE MAXVALUE 70;
COMMENT ON SEQUENCE app.t_s2_seq IS 'b';
GRANT SELECT ON SEQUENCE app.t_s2_seq TO PUBLIC;
CREATE TABLE app.other (id int DEFAULT nextval('app.t_s2_seq'));
CREATE SEQUENCE app.mine OWNED BY app.t.o; SELECT nextval('app.mine');
ALTER TABLE app.t
    ALTER p1 SET STORAGE PLAIN,
    ALTER p2 SET STORAGE EXTERNAL,
    ALTER p3 SET STORAGE MAIN,
    ALTER p4 SET STORAGE EXTENDED,
    ALTER p5 SET STORAGE EXTENDED,
    ALTER c1 SET STATISTICS 0,
    ALTER c2 SET STATISTICS 777,
    ALTER c1 SET (n_distinct = -0.5, n_distinct_inherited = 3);
DO $$ BEGIN
    ALTER TABLE app.t ADD z3 text COMPRESSION lz4 COLLATE "C" NOT NULL DEFAULT 'a';
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;
DO $$ BEGIN
    EXECUTE (SELECT 'ALTER TABLE app.t ' ||
                    string_agg(format('ADD w%s %s', g, CASE WHEN g % 2 = 0 THEN 'text' ELSE 'int DEFAULT ' || g END), ', ')
             FROM   generate_series(1, 200) g);
END $$;
INSERT INTO app.t (c1, c2, c3, c4, c5, p1, p2, p3, p4, p5, z1, z2, t1, t2, t13, t14, t15, w2) VALUES
    ('a', 'b', 'c', 'd', 'e', 'a', repeat('b', 9000), repeat('c', 9000), repeat('d', 90000), 5, repeat('a', 10000), repeat('b', 10000),
     'a', ARRAY[(1, 'x')::app.pair], '<a/>', '{"a": 1}', '(1,2)', 'x');
INSERT INTO app.t (up, t3) VALUES (1, 9);
ALTER TABLE app.t DROP dead1, DROP dead2, DROP dead3, REPLICA IDENTITY FULL; CREATE INDEX ON app.t (up, d1);
GRANT UPDATE (up) ON app.t TO PUBLIC; COMMENT ON COLUMN app.t.up IS 'up'`

// wideConstraintsSQL has keys to and from other tables too, and to itself.
const wideConstraintsSQL = `
CREATE SCHEMA "Other";
CREATE TABLE "Other"."P" ("I" int, "J" int, PRIMARY KEY ("I", "J"), UNIQUE ("J", "I"), UNIQUE ("J"));
INSERT INTO "Other"."P" VALUES (1, 2);
CREATE TABLE app.p (a int, b int, PRIMARY KEY (a, b));
INSERT INTO app.p VALUES (3, 4);
CREATE TABLE app.o (id int PRIMARY KEY, t int);
CREATE TABLE app.t (
    u      int       UNIQUE,
    a      int       DEFAULT 1 CHECK (a > 0),
    b      int       DEFAULT 2,
    c      int,
    d      text      CONSTRAINT "Odd; name" CHECK (d <> 'it''s'),
    n      int,
    o      int       REFERENCES app.o,
    up     int       REFERENCES app.t (u) ON UPDATE CASCADE ON DELETE SET NULL,
    self   int       CONSTRAINT "self 2" REFERENCES app.t (u) ON DELETE CASCADE DEFERRABLE,
    during tsrange,
    dates  daterange DEFAULT '[2020-01-01, 2020-02-01)',
    CONSTRAINT "My Key" PRIMARY KEY (d, u) INCLUDE (c) WITH (fillfactor = 60),
    CHECK (a < u OR d <> '') NO INHERIT,
    CONSTRAINT with_include UNIQUE (u) INCLUDE (c, a),
    UNIQUE (u, c) WITH (fillfactor = 55),
    UNIQUE (u, a) DEFERRABLE,
    CONSTRAINT "at the end" UNIQUE (u, b) DEFERRABLE INITIALLY DEFERRED,
    EXCLUDE USING gist (during WITH &&) WHERE (u > 0),
    CONSTRAINT "apart; later" EXCLUDE USING gist (during WITH -|-, int4range(u, u, '[]') WITH &&)
        DEFERRABLE INITIALLY DEFERRED,
    EXCLUDE USING btree (u WITH =),
    EXCLUDE USING hash (u WITH =),
    FOREIGN KEY (a, b) REFERENCES "Other"."P" MATCH FULL ON UPDATE CASCADE ON DELETE SET NULL,
    CONSTRAINT "second; key" FOREIGN KEY (b, a) REFERENCES "Other"."P" ("J", "I") ON UPDATE SET DEFAULT
        ON DELETE RESTRICT DEFERRABLE,
    FOREIGN KEY (b) REFERENCES "Other"."P" ("J") ON UPDATE SET NULL ON DELETE SET DEFAULT DEFERRABLE INITIALLY DEFERRED,
    FOREIGN KEY (b) REFERENCES "Other"."P" ("J") ON UPDATE RESTRICT ON DELETE CASCADE
);
ALTER TABLE app.o ADD FOREIGN KEY (t) REFERENCES app.t (u) DEFERRABLE;
INSERT INTO app.t (u, a, b, c, d, n, up, self, during)
VALUES (1, 1, 2, 1, 'x', NULL, 1, 1, '[2020-01-01, 2020-02-01)'),
       (2, NULL, NULL, NULL, 'y', 5, 1, 1, '[2020-02-01, 2020-03-01)');
INSERT INTO app.o VALUES (1, 1);
UPDATE app.t SET o = 1;
SET CONSTRAINTS ALL IMMEDIATE;
ALTER TABLE app.t ADD CONSTRAINT later CHECK (a > 2) NOT VALID;
ALTER TABLE app.t ADD CONSTRAINT later_alone CHECK (a > 3) NO INHERIT NOT VALID;
ALTER TABLE app.t ADD CONSTRAINT key_later FOREIGN KEY (b) REFERENCES "Other"."P" ("J") NOT VALID;
CREATE TABLE "Other"."t" (
    x int REFERENCES app.t (u) ON UPDATE CASCADE ON DELETE CASCADE,
    y int REFERENCES app.t (u) DEFERRABLE INITIALLY DEFERRED,
    z int,
    CONSTRAINT "k; 2" FOREIGN KEY (x, y) REFERENCES app.t (u, c) MATCH FULL ON DELETE SET NULL
);
INSERT INTO "Other"."t" VALUES (1, 1, 3), (NULL, NULL, NULL);
CREATE TABLE app.late (x int DEFAULT 1);
INSERT INTO app.late VALUES (99);
ALTER TABLE app.late ADD CONSTRAINT late FOREIGN KEY (x) REFERENCES app.t (u) ON UPDATE SET DEFAULT NOT VALID;
COMMENT ON CONSTRAINT later ON app.t IS 'not yet';
COMMENT ON CONSTRAINT with_include ON app.t IS 'with';
COMMENT ON INDEX app.with_include IS 'the index';
COMMENT ON CONSTRAINT "My Key" ON app.t IS 'key';
COMMENT ON CONSTRAINT "apart; later" ON app.t IS 'x';
COMMENT ON CONSTRAINT "second; key" ON app.t IS 'it''s';
COMMENT ON CONSTRAINT late ON app.late IS 'late';
COMMENT ON CONSTRAINT "self 2" ON app.t IS 'me'`

// wideIndexesSQL has a primary key that can be deferred beside a unique index.
const wideIndexesSQL = `
CREATE COLLATION app.german (provider = icu, locale = 'de');
CREATE TABLE app.t (
    id             int,
    n              int  NOT NULL UNIQUE,
    a              text,
    b              int,
    c              int[],
    d              point,
    e              tsvector,
    f              inet,
    "odd ""column" text CHECK ("odd ""column" <> ''),
    PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED
)
    WITH (fillfactor = 70, autovacuum_enabled = off, autovacuum_vacuum_scale_factor = 0.25, parallel_workers = 3,
    toast_tuple_target = 200, toast.autovacuum_enabled = off, toast.autovacuum_vacuum_threshold = 7);
CREATE INDEX ON app.t USING btree (a);
CREATE INDEX ON app.t USING hash (a);
CREATE INDEX ON app.t USING gin (c) WITH (fastupdate = off);
CREATE INDEX ON app.t USING gin (e);
CREATE INDEX ON app.t USING gist (d) WITH (buffering = on);
CREATE INDEX ON app.t USING spgist (d);
CREATE INDEX ON app.t USING spgist (f inet_ops);
CREATE INDEX ON app.t USING brin (id) WITH (pages_per_range = 4, autosummarize = on);
CREATE INDEX ON app.t USING brin (f inet_inclusion_ops, a);
CREATE INDEX ON app.t USING gist (e tsvector_ops (siglen = 100));
CREATE INDEX "Partial; ON app.t" ON app.t (a) WHERE a <> ' ON app.t USING' AND b > 0;
CREATE INDEX ON app.t (lower(a), (b + 1), (a || 'x') COLLATE "C" DESC);
CREATE INDEX ON app.t (a text_pattern_ops, a varchar_pattern_ops DESC NULLS LAST);
CREATE INDEX ON app.t (a COLLATE app.german NULLS FIRST, b DESC NULLS LAST, id ASC) INCLUDE (b);
CREATE INDEX ON app.t (b) WITH (fillfactor = 33, deduplicate_items = off);
CREATE UNIQUE INDEX ON app.t (lower(a)) WHERE b IS NULL;
CREATE INDEX stats ON app.t (b, (b + 1), lower(a));
ALTER INDEX app.stats ALTER 2 SET STATISTICS 55;
ALTER INDEX app.stats ALTER 3 SET STATISTICS 0;
CREATE INDEX clustered ON app.t (a);
ALTER TABLE app.t CLUSTER ON clustered;
CREATE UNIQUE INDEX "the Index" ON app.t (n);
ALTER TABLE app.t REPLICA IDENTITY USING INDEX "the Index";
COMMENT ON INDEX app.clustered IS 'it''s "clustered"; \';
COMMENT ON INDEX app.t_pkey IS ' ';
COMMENT ON CONSTRAINT t_pkey ON app.t IS '''';
COMMENT ON TABLE app.t IS E'it''s; "a"\n\\ table $$ -- /* %s {{x}}';
COMMENT ON COLUMN app.t."odd ""column" IS E'\\''s';
COMMENT ON CONSTRAINT "t_odd ""column_check" ON app.t IS 'ä';
INSERT INTO app.t
SELECT g, g, 'a' || g, g, ARRAY[g], point(g, g), to_tsvector('a b'), '10.0.0.1', repeat('x', 5000)
FROM   generate_series(1, 99) g`

// wideBehaviourSQL has objects of other kinds, which refer to the table.
const wideBehaviourSQL = `
CREATE SCHEMA other;
CREATE TABLE app.t (dead int, id int PRIMARY KEY, a text, "A b" text, b int);
ALTER TABLE app.t DROP dead;
INSERT INTO app.t SELECT g, 'a', 'a', g FROM generate_series(1, 99) g;
CREATE VIEW app.v WITH (security_barrier) AS SELECT * FROM app.t WHERE a <> ' ON ' WITH CHECK OPTION;
CREATE VIEW app.on_v AS SELECT a, count(*) FROM app.v GROUP BY a;
COMMENT ON VIEW app.v IS 'it''s';
CREATE VIEW app.grouped AS SELECT id, a FROM app.t GROUP BY id;
COMMENT ON COLUMN app.v.a IS 'a';
GRANT SELECT (id), UPDATE ON app.v TO PUBLIC;
ALTER VIEW app.v ALTER a SET DEFAULT 'x';
CREATE RECURSIVE VIEW app.r (n) AS SELECT id FROM app.t UNION SELECT n + 1 FROM r WHERE n < 5;
CREATE VIEW app.whole AS SELECT x.id, (SELECT max(y.id) FROM app.t y) AS m FROM app.t AS x TABLESAMPLE system (50);
CREATE FUNCTION app.trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER "First; ON x" BEFORE INSERT OR UPDATE OF a, b ON app.t FOR EACH ROW WHEN (NEW.a <> ' ON app.t')
    EXECUTE FUNCTION app.trigger('it''s', 'b');
CREATE TRIGGER rows AFTER UPDATE ON app.t REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT
    EXECUTE FUNCTION app.trigger();
CREATE TRIGGER trunc BEFORE TRUNCATE ON app.t EXECUTE FUNCTION app.trigger();
CREATE CONSTRAINT TRIGGER late AFTER DELETE ON app.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION app.trigger();
CREATE TRIGGER always BEFORE DELETE ON app.t FOR EACH ROW EXECUTE FUNCTION app.trigger();
ALTER TABLE app.t ENABLE ALWAYS TRIGGER always;
CREATE TRIGGER replica BEFORE DELETE ON app.t FOR EACH ROW EXECUTE FUNCTION app.trigger();
ALTER TABLE app.t ENABLE REPLICA TRIGGER replica;
CREATE TRIGGER off BEFORE DELETE ON app.t FOR EACH ROW EXECUTE FUNCTION app.trigger();
ALTER TABLE app.t DISABLE TRIGGER off;
COMMENT ON TRIGGER off ON app.t IS 'it''s off';
CREATE TABLE app.log (id int);
CREATE RULE r AS ON UPDATE TO app.t WHERE NEW.a = 'zz' DO ALSO INSERT INTO app.log VALUES (NEW.id);
COMMENT ON RULE r ON app.t IS 'r';
CREATE RULE off AS ON DELETE TO app.t DO INSTEAD NOTHING;
ALTER TABLE app.t DISABLE RULE off;
CREATE RULE elsewhere AS ON INSERT TO app.log WHERE NEW.id < (SELECT min(id) FROM app.t) DO INSTEAD NOTHING;
ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.t FORCE ROW LEVEL SECURITY;
CREATE POLICY "P; 1" ON app.t AS RESTRICTIVE FOR UPDATE TO CURRENT_USER, pg_monitor USING (a <> '')
    WITH CHECK (id > (SELECT 0));
CREATE POLICY self ON app.t FOR SELECT USING (EXISTS (SELECT FROM app.t x WHERE x.id = id));
COMMENT ON POLICY self ON app.t IS 'me';
CREATE TABLE app.o (id int);
CREATE POLICY other ON app.o USING (id IN (SELECT id FROM app.t));
CREATE PUBLICATION p FOR TABLE app.t;
CREATE PUBLICATION q FOR TABLE ONLY app.t WITH (publish = 'insert');
CREATE STATISTICS app."S 1" (ndistinct, mcv) ON a, b FROM app.t;
ALTER STATISTICS app."S 1" SET STATISTICS 55;
COMMENT ON STATISTICS app."S 1" IS 's';
CREATE STATISTICS other.s ON (b + 1), (lower(a)), id FROM app.t;
CREATE FUNCTION app.f(x int) RETURNS text LANGUAGE sql STABLE STRICT RETURN (SELECT a FROM app.t WHERE id = x);
CREATE PROCEDURE app.p(n int DEFAULT 5) LANGUAGE sql BEGIN ATOMIC INSERT INTO app.t VALUES (n, 'p'); SELECT *
    FROM app.t; END;
COMMENT ON FUNCTION app.f IS 'f';
REVOKE EXECUTE ON FUNCTION app.f FROM PUBLIC;
CREATE VIEW app.by_f AS SELECT app.f(id) FROM app.t;
CREATE VIEW app.writable AS TABLE app.t;
CREATE TRIGGER tr INSTEAD OF INSERT ON app.writable FOR EACH ROW EXECUTE FUNCTION app.trigger();
CREATE RULE ru AS ON DELETE TO app.writable DO INSTEAD NOTHING;
CREATE FUNCTION app.g(app.writable) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE MATERIALIZED VIEW app.m AS TABLE app.writable`
