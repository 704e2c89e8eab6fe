-- Events of jobs that have been passed on (run --on-event, --notify-url). A run that continues a job
-- passes on the others.
CREATE TABLE {{.schema}}.event (
    job_id bigint      NOT NULL REFERENCES {{.schema}}.job (id) ON DELETE CASCADE,
    event  text        NOT NULL,
    stage  text        NOT NULL,
    at     timestamptz NOT NULL,
    PRIMARY KEY (job_id, event, stage, at)
);

-- Who may write jobs may write here.
DO $event$
DECLARE
    role text;
BEGIN
    FOR role IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END
        FROM   pg_class c
        CROSS  JOIN LATERAL aclexplode(c.relacl) a
        WHERE  c.oid = {{.job}}::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {{.schema}}.event TO %s', role);
    END LOOP;
END
$event$;

---- create above / drop below ----

DROP TABLE {{.schema}}.event;
