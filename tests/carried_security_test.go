package tests

import "testing"

// TestSecurityCarried: who may see and do what is the same all the time.
func TestSecurityCarried(t *testing.T) { runCarried(t, securityCases) }

// aclSQL shows the privileges as they are stored, in their order.
const aclSQL = `SELECT relacl FROM pg_class WHERE oid = 'app.t'::regclass`

var securityCases = []carriedCase{
	{
		name: "policies",
		setup: `GRANT SELECT, INSERT, UPDATE, DELETE ON app.t TO {alice}, {bob};
			GRANT SELECT ON app.log TO {alice};
			ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
			CREATE POLICY "reads few" ON app.t FOR SELECT TO {alice} USING (a < 3);
			CREATE POLICY writes ON app.t FOR INSERT TO {alice}, {bob} WITH CHECK (a < 5);
			CREATE POLICY changes ON app.t FOR UPDATE TO {alice} USING (a < 2) WITH CHECK (b <> 'bad');
			CREATE POLICY deletes ON app.t FOR DELETE USING (id = 1 OR b = current_user::text);
			CREATE POLICY narrow ON app.t AS RESTRICTIVE FOR SELECT TO PUBLIC USING (id < 50 OR a <> 2);
			CREATE POLICY everything ON app.t TO {bob} USING (true) WITH CHECK (EXISTS (SELECT FROM app.log l WHERE l.n = t.id OR t.a > 0));
			COMMENT ON POLICY "reads few" ON app.t IS 'it''s; few';
			COMMENT ON POLICY narrow ON app.t IS 'narrow'`,
		probes: []probe{
			{`SET ROLE {alice}; SELECT count(*) FROM app.t WHERE id <= 90 AND b <> 'written' AND id <> 3`, "23"},
			{`SET ROLE {bob}; SELECT count(*) FROM app.t WHERE id <= 90 AND b <> 'written' AND id <> 3`, "85"},
			{`SET ROLE {carol}; SELECT count(*) FROM app.t`, "ERROR 42501"},
			{`SET ROLE {alice}; INSERT INTO app.t (id, a) VALUES (1000, 4)`, ""},
			{`SET ROLE {alice}; INSERT INTO app.t (id, a) VALUES (1000, 5)`, "ERROR 42501"},
			{`SET ROLE {alice}; UPDATE app.t SET b = 'bad' WHERE a = 1`, "ERROR 42501"},
			{`SET ROLE {alice}; WITH u AS (UPDATE app.t SET b = 'good' WHERE id < 20 RETURNING 1) SELECT count(*) FROM u`, "3"},
			{`SET ROLE {alice}; WITH u AS (DELETE FROM app.t RETURNING id) SELECT min(id), count(*) FROM u`, "1|1"},
		},
	},
	{
		name: "forced on the owner, who does not repack",
		setup: `ALTER TABLE app.t OWNER TO {alice}; GRANT CREATE ON SCHEMA app TO {alice};
			ALTER TABLE app.t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
			CREATE POLICY p ON app.t USING (a = 1)`,
		probes: []probe{{`SET ROLE {alice};
			SELECT count(*) FROM app.t WHERE a <> 1`, "0"}, {`SET ROLE {alice};
			SELECT count(*) FROM app.t WHERE id < 30 AND id <> 3`, "3"}},
	},
	{
		name: "enabled without a policy, forced without being enabled",
		setup: `GRANT SELECT ON app.t TO {alice};
			ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
			CREATE POLICY later ON app.log USING (true);
			ALTER TABLE app.log FORCE ROW LEVEL SECURITY`,
		probes: []probe{{`SET ROLE {alice}; SELECT count(*) FROM app.t`, "0"}},
	},
	{
		name: "policies that ask tables, this one too",
		setup: `CREATE TABLE app.member (who text, a int, primary key (who, a));
			INSERT INTO app.member VALUES ('{alice}', 1), ('{alice}', 2), ('{bob}', 3);
			GRANT SELECT ON app.t, app.member, app.log TO {alice}, {bob};
			GRANT INSERT ON app.log TO {alice};
			ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
			ALTER TABLE app.member ENABLE ROW LEVEL SECURITY;
			ALTER TABLE app.log ENABLE ROW LEVEL SECURITY;
			CREATE POLICY mine ON app.member USING (who = current_user);
			CREATE POLICY members ON app.t USING (EXISTS (SELECT FROM app.member m WHERE m.a = t.a AND m.who = current_user));
			CREATE POLICY known ON app.log FOR INSERT WITH CHECK (what IN (SELECT t.b FROM app.t));
			CREATE POLICY logged ON app.log FOR SELECT USING (EXISTS (SELECT FROM app.t AS other WHERE other.b = what) AND EXISTS (SELECT FROM app.t log WHERE log.id = 1));
			COMMENT ON POLICY known ON app.log IS 'known';
			INSERT INTO app.log (what) VALUES ('b1'), ('b2'), ('nothing')`,
		probes: []probe{
			{`SET ROLE {alice}; SELECT count(*) FROM app.t WHERE id < 40 AND id NOT IN (2, 3)`, "7"},
			{`SET ROLE {bob}; SELECT count(*) FROM app.t WHERE id < 40 AND id NOT IN (2, 3)`, "3"},
			{`SET ROLE {alice}; SELECT what FROM app.log ORDER BY n`, "b1\nb2"},
			{`SET ROLE {alice}; INSERT INTO app.log (what) VALUES ('b11')`, ""},
			{`SET ROLE {alice}; INSERT INTO app.log (what) VALUES ('b15')`, "ERROR 42501"},
			{`INSERT INTO app.t (a, b) VALUES (1, 'fresh'); SET LOCAL ROLE {alice}; INSERT INTO app.log (what) VALUES ('fresh'); SELECT count(*) FROM app.log`, "3"},
		},
	},
	{
		name: "grants in the order they were given",
		setup: `GRANT SELECT ON app.t TO {carol}; GRANT UPDATE ON app.t TO {bob}; GRANT DELETE ON app.t TO PUBLIC; GRANT INSERT ON app.t TO {alice};
			GRANT TRUNCATE ON app.t TO {bob}; GRANT SELECT (b) ON app.t TO {carol}; GRANT UPDATE (b) ON app.t TO {alice}; GRANT SELECT (b) ON app.t TO PUBLIC`,
		probes: []probe{{aclSQL, "{postgres=arwdDxt/postgres,{carol}=r/postgres,{bob}=wD/postgres,=d/postgres,{alice}=a/postgres}"}},
	},
	{
		name: "chains of grants",
		setup: `GRANT SELECT, INSERT ON app.t TO {alice} WITH GRANT OPTION;
			GRANT UPDATE (a, b) ON app.t TO {alice} WITH GRANT OPTION;
			SET ROLE {alice};
			GRANT SELECT ON app.t TO {bob} WITH GRANT OPTION;
			GRANT INSERT ON app.t TO PUBLIC;
			GRANT UPDATE (b) ON app.t TO {bob} WITH GRANT OPTION;
			RESET ROLE;
			SET ROLE {bob};
			GRANT SELECT ON app.t TO {carol};
			GRANT SELECT (a) ON app.t TO {carol};
			GRANT UPDATE (b) ON app.t TO {carol};
			RESET ROLE;
			GRANT SELECT ON app.t TO {carol};
			GRANT REFERENCES, TRIGGER ON app.t TO {carol}`,
		probes: []probe{
			{`SET ROLE {carol}; SELECT count(*) FROM app.t WHERE id < 3`, "2"},
			{`SET ROLE {carol}; UPDATE app.t SET b = 'x' WHERE id = 1 RETURNING b`, "x"},
			{`SET ROLE {carol}; UPDATE app.t SET a = 1 WHERE id = 1`, "ERROR 42501"},
			{`SET ROLE {carol}; DELETE FROM app.t`, "ERROR 42501"},
			{`REVOKE SELECT ON app.t FROM {alice} CASCADE; SET LOCAL ROLE {bob}; SELECT count(*) FROM app.t`, "ERROR 42501"},
		},
	},
	{
		name: "an owner without all privileges",
		setup: `ALTER TABLE app.t OWNER TO {alice}; GRANT CREATE ON SCHEMA app TO {alice};
			SET ROLE {alice}; REVOKE UPDATE, TRUNCATE ON app.t FROM {alice}; GRANT SELECT ON app.t TO {bob}; RESET ROLE`,
		probes: []probe{
			{`SET ROLE {alice}; UPDATE app.t SET a = 1`, "ERROR 42501"},
			{`SET ROLE {alice}; TRUNCATE app.t`, "ERROR 42501"},
			{`SET ROLE {alice}; SELECT count(*) FROM app.t WHERE id < 5`, "4"},
			{`SET ROLE {bob}; SELECT count(*) FROM app.t WHERE id < 5`, "4"},
		},
	},
	{
		name:  "no privilege for anybody",
		setup: `REVOKE ALL ON app.t FROM postgres; REVOKE ALL ON SEQUENCE app.t_id_seq FROM postgres`,
	},
	{
		name: "default privileges that would add",
		setup: `ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {alice}, PUBLIC;
			ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {alice};
			ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO {bob};
			ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT ALL ON SEQUENCES TO {bob} WITH GRANT OPTION;
			ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC;
			ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO {carol};
			GRANT SELECT ON app.t TO {carol}; GRANT USAGE ON SEQUENCE app.t_id_seq TO {carol}`,
		probes: []probe{
			{`SET ROLE {alice}; SELECT FROM app.t`, "ERROR 42501"},
			{`SET ROLE {bob}; SELECT FROM app.t`, "ERROR 42501"},
			{`SET ROLE {bob}; SELECT nextval('app.t_id_seq')`, "ERROR 42501"},
			{`SET ROLE {carol}; SELECT nextval('app.t_id_seq') > 100, count(*) FROM app.t WHERE id < 4`, "t|3"},
			// While a job is there, nobody may look into it.
			{`SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace CROSS JOIN unnest(ARRAY['{alice}', '{bob}', '{carol}']) r
			  WHERE nspname LIKE 'repack\_job%' AND relkind = 'r' AND has_schema_privilege(r, n.oid, 'USAGE')`, "0"},
		},
	},
	{
		name: "default privileges that would take away",
		setup: `ALTER DEFAULT PRIVILEGES REVOKE INSERT, UPDATE ON TABLES FROM postgres;
			ALTER DEFAULT PRIVILEGES REVOKE ALL ON SEQUENCES FROM postgres;
			ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
			ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC;
			GRANT INSERT ON app.t TO {alice}`,
		probes: []probe{{`SET ROLE {alice}; INSERT INTO app.t (id, a) VALUES (1000, 1)`, ""}},
	},
	{
		name: "owners of everything",
		setup: `GRANT CREATE ON SCHEMA app TO {alice}, {bob}; ALTER TABLE app.t OWNER TO {alice};
			CREATE VIEW app.v AS SELECT id, b FROM app.t; ALTER VIEW app.v OWNER TO {bob}; GRANT SELECT ON app.t TO {bob};
			CREATE STATISTICS app.s ON a, b FROM app.t; ALTER STATISTICS app.s OWNER TO {bob};
			CREATE TABLE app.child (t int REFERENCES app.t); ALTER TABLE app.child OWNER TO {carol}; GRANT REFERENCES ON app.t TO {carol};
			GRANT SELECT ON app.v TO {carol}`,
		probes: []probe{{`SET ROLE {carol}; SELECT count(*) FROM app.v WHERE id < 4`, "3"}, {`SET ROLE {carol}; SELECT count(*) FROM app.t`, "ERROR 42501"}},
	},
}
