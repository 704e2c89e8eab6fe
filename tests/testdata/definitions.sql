CREATE SCHEMA app;
CREATE FUNCTION app.noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TABLE app.other (id int PRIMARY KEY, a int, b int, s varchar(20));
ALTER TABLE app.other ENABLE ROW LEVEL SECURITY;
CREATE TABLE app.t (id int PRIMARY KEY, a int, b int, s varchar(20),
    g boolean GENERATED ALWAYS AS ({c}) STORED,
    d boolean DEFAULT ('x'::varchar IN ('a', 'b')),
    CONSTRAINT checked CHECK ({c} OR id > 0), EXCLUDE USING btree (id WITH =) WHERE ({c}));
INSERT INTO app.t SELECT g, g % 7, 1, CASE WHEN g % 2 = 0 THEN 'a' ELSE 'z' END FROM generate_series(1, 100) g;
ALTER TABLE app.t ADD CONSTRAINT unchecked CHECK ({c} OR id > 5) NOT VALID;
CREATE INDEX partial ON app.t (id) WHERE {c};
CREATE INDEX expression ON app.t (({c}), id);
CREATE UNIQUE INDEX partial_key ON app.t (id, b) WHERE {c};
CREATE STATISTICS app.st ON ({c}), id FROM app.t;
CREATE POLICY p ON app.t USING ({c})
    WITH CHECK ({c} AND id IN (SELECT o.id FROM app.other o WHERE o.s IN ('a', 'b') AND o.b = t.b));
CREATE POLICY inserts ON app.t FOR INSERT WITH CHECK ({c});
CREATE TRIGGER "when" BEFORE INSERT OR UPDATE OF a, s ON app.t FOR EACH ROW
    WHEN (NEW.a BETWEEN 1 AND 5 AND NEW.b > 0 OR NEW.s IN ('a', 'b')) EXECUTE FUNCTION app.noted('a', 'it''s');
CREATE TRIGGER emptied AFTER TRUNCATE ON app.t EXECUTE FUNCTION app.noted();
CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON app.t FROM app.other DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.s IN ('a', 'b')) EXECUTE FUNCTION app.noted();
CREATE RULE r AS ON UPDATE TO app.t WHERE OLD.s IN ('q', 'r') AND NEW.a BETWEEN 1 AND 5 AND NEW.b > 0
    DO INSTEAD NOTHING;
CREATE RULE own AS ON DELETE TO app.t WHERE OLD.id < 0 DO ALSO UPDATE app.t SET b = 1
    WHERE id = OLD.id AND s IN ('a', 'b');
CREATE VIEW app.v AS SELECT id, a, b, s, {c} AS c FROM app.t WHERE {c};
CREATE VIEW app.above AS SELECT * FROM app.v WHERE {c};
CREATE VIEW app.united AS
SELECT * FROM (SELECT id, a, 'a'::text AS kind FROM app.t UNION ALL SELECT id, NULL, 'b' FROM app.other) q;
CREATE VIEW app.joined AS
SELECT t.id, o.a FROM app.t LEFT JOIN app.other o ON TRUE CROSS JOIN LATERAL (SELECT 1 AS one) x;
ALTER VIEW app.v ALTER COLUMN a SET DEFAULT 7;
CREATE POLICY p ON app.other USING (id IN (SELECT t.id FROM app.t WHERE t.s IN ('a', 'b') AND t.b = other.b));
CREATE POLICY inserts ON app.other FOR INSERT WITH CHECK (id IN (SELECT t.id FROM app.t WHERE t.s IN ('a', 'b')));
CREATE RULE r AS ON INSERT TO app.other WHERE NEW.id IN (SELECT id FROM app.t WHERE {c}) DO INSTEAD NOTHING;
CREATE RULE through AS ON INSERT TO app.above DO INSTEAD INSERT INTO app.t (id) SELECT NEW.id WHERE NEW.s IN ('a', 'b');
CREATE FUNCTION app.f(id int) RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM app.t
    WHERE {c} AND t.id > f.id; END;
CREATE PROCEDURE app.pr(s varchar) LANGUAGE sql BEGIN ATOMIC DELETE FROM app.t
    WHERE a BETWEEN 1 AND 5 AND b > 0 AND t.s = pr.s AND t.id < 0; END;
