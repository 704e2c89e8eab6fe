package tests

import "testing"

// noteSQL shows what the triggers have noted of the statement before it.
const noteSQL = `; SELECT what FROM app.log ORDER BY n`

// clean makes the log empty, so that a probe shows its own notes only.
const clean = `DELETE FROM app.log;`

// TestTriggersCarried: each fires once for a write of the application, on the
// table that is in use, and never because of the tool.
func TestTriggersCarried(t *testing.T) { runCarried(t, triggerCases) }

// TestTriggersCarriedTogether: the same for triggers that do not meet.
func TestTriggersCarriedTogether(t *testing.T) {
	runTogether(t, writingTriggerCases, refusingTriggerCases)
}

var triggerCases = []carriedCase{
	{
		name: "before and after, row and statement",
		setup: `CREATE TRIGGER z_before_row BEFORE INSERT OR UPDATE OR DELETE ON app.t FOR EACH ROW EXECUTE FUNCTION app.note();
			CREATE TRIGGER b_after_row AFTER INSERT OR UPDATE OR DELETE ON app.t FOR EACH ROW EXECUTE FUNCTION app.note();
			CREATE TRIGGER "A before; statement" BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON app.t EXECUTE FUNCTION app.note();
			CREATE TRIGGER after_statement AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON app.t EXECUTE FUNCTION app.note();
			COMMENT ON TRIGGER "A before; statement" ON app.t IS 'it''s odd';
			COMMENT ON TRIGGER b_after_row ON app.t IS 'after'`,
		probes: []probe{
			{clean + `INSERT INTO app.t (a) VALUES (1)` + noteSQL, "A before; statement BEFORE INSERT STATEMENT app.t\n" +
				"z_before_row BEFORE INSERT ROW app.t\nb_after_row AFTER INSERT ROW app.t\nafter_statement AFTER INSERT STATEMENT app.t"},
			{clean + `UPDATE app.t SET a = 1 WHERE id < 3` + noteSQL, "A before; statement BEFORE UPDATE STATEMENT app.t\n" +
				"z_before_row BEFORE UPDATE ROW app.t\nz_before_row BEFORE UPDATE ROW app.t\n" +
				"b_after_row AFTER UPDATE ROW app.t\nb_after_row AFTER UPDATE ROW app.t\nafter_statement AFTER UPDATE STATEMENT app.t"},
			{clean + `DELETE FROM app.t WHERE id = 1` + noteSQL, "A before; statement BEFORE DELETE STATEMENT app.t\n" +
				"z_before_row BEFORE DELETE ROW app.t\nb_after_row AFTER DELETE ROW app.t\nafter_statement AFTER DELETE STATEMENT app.t"},
			{clean + `TRUNCATE app.t` + noteSQL, "A before; statement BEFORE TRUNCATE STATEMENT app.t\nafter_statement AFTER TRUNCATE STATEMENT app.t"},
		},
	},
	{
		name: "a row changed before it is stored",
		setup: `CREATE FUNCTION app.change() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN NEW.b := NEW.b || '!'; IF NEW.a = 99 THEN RETURN NULL; END IF; RETURN NEW; END $$;
			CREATE TRIGGER change BEFORE INSERT OR UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION app.change()`,
		probes: []probe{
			{`INSERT INTO app.t (a, b) VALUES (1, 'x'), (99, 'none') RETURNING a, b`, "1|x!"},
			{`UPDATE app.t SET a = 5 WHERE id = 1 RETURNING b`, "b1!"},
			{`SELECT b FROM app.t WHERE id = 1`, "b1"},
		},
	},
	{
		name: "states",
		setup: `CREATE TRIGGER t_origin AFTER UPDATE ON app.t EXECUTE FUNCTION app.note();
			CREATE TRIGGER t_disabled AFTER UPDATE ON app.t EXECUTE FUNCTION app.note();
			CREATE TRIGGER t_replica AFTER UPDATE ON app.t EXECUTE FUNCTION app.note();
			CREATE TRIGGER t_always AFTER UPDATE ON app.t EXECUTE FUNCTION app.note();
			ALTER TABLE app.t DISABLE TRIGGER t_disabled, ENABLE REPLICA TRIGGER t_replica, ENABLE ALWAYS TRIGGER t_always`,
		probes: []probe{
			{clean + `UPDATE app.t SET a = 1 WHERE id = 1` + noteSQL, "t_always AFTER UPDATE STATEMENT app.t\nt_origin AFTER UPDATE STATEMENT app.t"},
			{
				clean + `SET LOCAL session_replication_role = replica; UPDATE app.t SET a = 1 WHERE id = 1` + noteSQL,
				"t_always AFTER UPDATE STATEMENT app.t\nt_replica AFTER UPDATE STATEMENT app.t",
			},
		},
	},
	{
		name: "columns, conditions and arguments",
		setup: `CREATE FUNCTION app.args() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN INSERT INTO app.log (what) VALUES (concat(TG_NAME, ' ', TG_ARGV::text)); RETURN NULL; END $$;
			CREATE TRIGGER t_columns AFTER UPDATE OF b, "a" ON app.t FOR EACH ROW EXECUTE FUNCTION app.args('it''s', '1', 'a\b');
			CREATE TRIGGER t_whole AFTER UPDATE ON app.t FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION app.args();
			CREATE TRIGGER t_when AFTER UPDATE ON app.t FOR EACH ROW WHEN (OLD.a < NEW.a AND NEW.b <> ' ON app.t ') EXECUTE FUNCTION app.args();
			CREATE TRIGGER t_cast AFTER UPDATE ON app.t FOR EACH ROW WHEN (NEW.id::text LIKE '1%') EXECUTE FUNCTION app.args('')`,
		probes: []probe{
			{clean + `UPDATE app.t SET a = 50 WHERE id = 2` + noteSQL, "t_columns [0:2]={it's,1,\"a\\\\b\"}\nt_when \nt_whole "},
			{clean + `UPDATE app.t SET id = id WHERE id = 1` + noteSQL, "t_cast [0:0]={\"\"}"},
		},
	},
	{
		name: "transition tables",
		setup: `CREATE FUNCTION app.count() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
			    IF TG_OP = 'INSERT' THEN INSERT INTO app.log (what) SELECT 'inserted ' || count(*) || ' ' || sum(a) FROM fresh;
			    ELSIF TG_OP = 'DELETE' THEN INSERT INTO app.log (what) SELECT 'deleted ' || count(*) FROM "Gone";
			    ELSE INSERT INTO app.log (what) SELECT 'updated ' || count(*) || ' by ' || sum(n.a - o.a) FROM fresh n JOIN "Gone" o USING (id);
			    END IF;
			    RETURN NULL;
			END $$;
			CREATE TRIGGER count_insert AFTER INSERT ON app.t REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION app.count();
			CREATE TRIGGER count_update AFTER UPDATE ON app.t REFERENCING NEW TABLE AS fresh OLD TABLE AS "Gone" FOR EACH STATEMENT EXECUTE FUNCTION app.count();
			CREATE TRIGGER count_delete AFTER DELETE ON app.t REFERENCING OLD TABLE AS "Gone" FOR EACH ROW EXECUTE FUNCTION app.count()`,
		probes: []probe{
			{clean + `INSERT INTO app.t (a) VALUES (4), (5)` + noteSQL, "inserted 2 9"},
			{clean + `UPDATE app.t SET a = a + 2 WHERE id < 4` + noteSQL, "updated 3 by 6"},
			{clean + `DELETE FROM app.t WHERE id < 3` + noteSQL, "deleted 2\ndeleted 2"},
		},
	},
	{
		name: "constraint triggers",
		setup: `CREATE CONSTRAINT TRIGGER at_once AFTER INSERT OR UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION app.note();
			CREATE CONSTRAINT TRIGGER can_wait AFTER UPDATE OF a ON app.t DEFERRABLE FOR EACH ROW WHEN (NEW.a > 3) EXECUTE FUNCTION app.note();
			CREATE CONSTRAINT TRIGGER at_the_end AFTER UPDATE ON app.t FROM app.log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.note();
			ALTER TABLE app.t ENABLE ALWAYS TRIGGER can_wait;
			COMMENT ON TRIGGER at_the_end ON app.t IS 'later'`,
		probes: []probe{
			{clean + `UPDATE app.t SET a = 9 WHERE id = 1` + noteSQL, "at_once AFTER UPDATE ROW app.t\ncan_wait AFTER UPDATE ROW app.t"},
			{
				clean + `UPDATE app.t SET a = 9 WHERE id = 1; SET CONSTRAINTS ALL IMMEDIATE` + noteSQL,
				"at_once AFTER UPDATE ROW app.t\ncan_wait AFTER UPDATE ROW app.t\nat_the_end AFTER UPDATE ROW app.t",
			},
			{clean + `SET CONSTRAINTS app.can_wait DEFERRED; UPDATE app.t SET a = 9 WHERE id = 1` + noteSQL, "at_once AFTER UPDATE ROW app.t"},
			{`SET CONSTRAINTS app.at_once DEFERRED`, "ERROR 42809"},
		},
	},
}

var writingTriggerCases = []carriedCase{
	{
		name: "triggers that write to the table itself and to others",
		setup: `CREATE TABLE app.counter (a int PRIMARY KEY, n int NOT NULL);
			INSERT INTO app.counter SELECT a, count(*) FROM app.t GROUP BY a;
			CREATE FUNCTION app.tally() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
			    IF TG_OP <> 'INSERT' THEN UPDATE app.counter SET n = n - 1 WHERE a = OLD.a; END IF;
			    IF TG_OP <> 'DELETE' THEN INSERT INTO app.counter VALUES (NEW.a, 1) ON CONFLICT (a) DO UPDATE SET n = counter.n + 1; END IF;
			    RETURN NULL;
			END $$;
			CREATE TRIGGER tally AFTER INSERT OR UPDATE OR DELETE ON app.t FOR EACH ROW EXECUTE FUNCTION app.tally();
			CREATE FUNCTION app.follow() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN UPDATE app.t SET b = 'follows ' || NEW.id WHERE id = NEW.id + 1; RETURN NULL; END $$;
			CREATE TRIGGER follow AFTER UPDATE OF a ON app.t FOR EACH ROW EXECUTE FUNCTION app.follow()`,
		probes: []probe{
			{`SELECT count(*) FROM app.counter c WHERE n <> (SELECT count(*) FROM app.t WHERE t.a = c.a)`, "0"},
			{`UPDATE app.t SET a = 70 WHERE id = 5; SELECT b, (SELECT n FROM app.counter WHERE a = 70) FROM app.t WHERE id = 6`, "follows 5|1"},
		},
	},
	{
		name: "triggers of other tables that write to it",
		setup: `CREATE TABLE app.other (t int REFERENCES app.t ON DELETE CASCADE);
			CREATE FUNCTION app.mark() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE app.t SET b = 'marked' WHERE id = NEW.t; RETURN NULL; END $$;
			CREATE TRIGGER mark AFTER INSERT ON app.other FOR EACH ROW EXECUTE FUNCTION app.mark();
			CREATE TRIGGER gone AFTER DELETE ON app.other FOR EACH ROW EXECUTE FUNCTION app.note();
			INSERT INTO app.other VALUES (1), (2), (3)`,
		write: `INSERT INTO app.other VALUES (20)`,
		probes: []probe{
			{`INSERT INTO app.other VALUES (30); SELECT b FROM app.t WHERE id = 30`, "marked"},
			{clean + `DELETE FROM app.t WHERE id = 2` + noteSQL, "gone AFTER DELETE ROW app.other"},
		},
	},
}

var refusingTriggerCases = []carriedCase{
	{
		name: "a full text column kept by trigger",
		setup: `ALTER TABLE app.t ADD words tsvector; UPDATE app.t SET words = to_tsvector('pg_catalog.simple', b);
			CREATE INDEX t_words ON app.t USING gin (words);
			CREATE TRIGGER words BEFORE INSERT OR UPDATE ON app.t FOR EACH ROW
			EXECUTE FUNCTION tsvector_update_trigger(words, 'pg_catalog.simple', b)`,
		probes: []probe{
			{`INSERT INTO app.t (b) VALUES ('quick fox'); SELECT b FROM app.t WHERE words @@ 'fox'::tsquery`, "quick fox"},
			{`SELECT b FROM app.t WHERE words @@ 'b7'::tsquery`, "b7"},
		},
	},
	{
		name: "a trigger that refuses",
		setup: `CREATE FUNCTION app.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE check_violation; END $$;
			CREATE TRIGGER refuse BEFORE UPDATE OR DELETE ON app.t FOR EACH ROW WHEN (OLD.id BETWEEN 10 AND 19) EXECUTE FUNCTION app.refuse();
			CREATE TRIGGER keep BEFORE TRUNCATE ON app.t EXECUTE FUNCTION app.refuse()`,
		probes: []probe{
			{`UPDATE app.t SET a = 1 WHERE id = 12`, "ERROR 23514"},
			{`DELETE FROM app.t WHERE id = 15`, "ERROR 23514"},
			{`TRUNCATE app.t`, "ERROR 23514"},
			{`DELETE FROM app.t WHERE id = 9 RETURNING id`, "9"},
		},
	},
	{
		name: "with odd names and schemas",
		setup: `CREATE SCHEMA "My ""Functions""";
			CREATE FUNCTION "My ""Functions"""."Do it; %s"() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = app AS $$
			BEGIN INSERT INTO log (what) VALUES ('done'); RETURN NULL; END $$;
			CREATE TRIGGER "00_before everything" AFTER UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION "My ""Functions"""."Do it; %s"('%s', '$1', '{{x}}');
			CREATE TRIGGER "RI_ConstraintTrigger_x" AFTER UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION app.note();
			CREATE TRIGGER "it's @name $1" AFTER UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION app.note();
			COMMENT ON TRIGGER "it's @name $1" ON app.t IS '@name $1 ; %s'`,
		probes: []probe{
			{clean + `UPDATE app.t SET a = 3 WHERE id = 1` + noteSQL, "done\nRI_ConstraintTrigger_x AFTER UPDATE ROW app.t\nit's @name $1 AFTER UPDATE ROW app.t"},
		},
	},
}
