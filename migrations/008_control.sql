-- What people tell runs from elsewhere: to pause, to work with other settings, to swap, to
-- stop. Rows are only added, so they are also the history of it.
CREATE TABLE {{.schema}}.control (
    id           bigint      PRIMARY KEY,
    table_schema text,
    table_name   text,
    command      text        NOT NULL,
    arguments    jsonb       NOT NULL DEFAULT '{}',
    told_by      text        NOT NULL,
    told_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (command IN ('pause', 'resume', 'set', 'swap', 'stop')),
    CHECK ((table_schema IS NULL) = (table_name IS NULL))
);

COMMENT ON COLUMN {{.schema}}.control.table_name IS 'null: every table';
COMMENT ON COLUMN {{.schema}}.control.told_by IS 'user and host of the process that wrote the row';

CREATE INDEX control_table_idx ON {{.schema}}.control (table_schema, table_name);

-- That the run of a job is at work. It has a table of its own, because transactions of the run
-- lock the row of the job.
CREATE TABLE {{.schema}}.heartbeat (
    job_id        bigint      PRIMARY KEY REFERENCES {{.schema}}.job (id) ON DELETE CASCADE,
    at            timestamptz NOT NULL,
    waiting_for   text,
    waiting_since timestamptz
);

COMMENT ON COLUMN {{.schema}}.heartbeat.waiting_for IS 'what keeps the run from work; null: nothing';

-- Who may write jobs may write here.
DO $control$
DECLARE
    role text;
BEGIN
    FOR role IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END
        FROM   pg_class c
        CROSS  JOIN LATERAL aclexplode(c.relacl) a
        WHERE  c.oid = {{.job}}::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {{.schema}}.control, {{.schema}}.heartbeat TO %s', role);
    END LOOP;
END
$control$;

---- create above / drop below ----

DROP TABLE {{.schema}}.control, {{.schema}}.heartbeat;
