-- Ids without sequences. A publication FOR ALL SEQUENCES (PostgreSQL 19) publishes the
-- sequences of identity columns, and REFRESH PUBLICATION fails at a subscriber that does
-- not have them.
CREATE TABLE {{.schema}}.last_id (
    of text   PRIMARY KEY,
    id bigint NOT NULL
);

COMMENT ON COLUMN {{.schema}}.last_id.of IS 'the table whose latest id it is';

LOCK TABLE {{.schema}}.job, {{.schema}}.verification, {{.schema}}.partitioned IN ACCESS EXCLUSIVE MODE;

-- The sequence is ahead of the rows if a setup was rolled back, or has not inserted its
-- row yet.
INSERT INTO {{.schema}}.last_id (of, id)
SELECT 'job', greatest((SELECT max(id) FROM {{.schema}}.job), (SELECT last_value FROM {{.schema}}.job_id_seq WHERE is_called), 0)
UNION ALL
SELECT 'partitioned', coalesce((SELECT max(id) FROM {{.schema}}.partitioned), 0);

-- Whoever may write jobs may number them.
DO $last_id$
DECLARE
    role text;
BEGIN
    FOR role IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END
        FROM   pg_class c
        CROSS  JOIN LATERAL aclexplode(c.relacl) a
        WHERE  c.oid = {{.job}}::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {{.schema}}.last_id TO %s', role);
    END LOOP;
END
$last_id$;

ALTER TABLE {{.schema}}.job ALTER COLUMN id DROP IDENTITY;

ALTER TABLE {{.schema}}.partitioned ALTER COLUMN id DROP IDENTITY;

-- Each job numbers its own verifications.
ALTER TABLE {{.schema}}.verification
    ALTER COLUMN id DROP IDENTITY,
    DROP CONSTRAINT verification_pkey,
    ADD PRIMARY KEY (job_id, id);

DROP INDEX {{.schema}}.verification_job_id_idx;

---- create above / drop below ----

CREATE INDEX verification_job_id_idx ON {{.schema}}.verification (job_id);

ALTER TABLE {{.schema}}.verification
    ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY,
    DROP CONSTRAINT verification_pkey,
    ADD PRIMARY KEY (id);

ALTER TABLE {{.schema}}.partitioned ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY;

ALTER TABLE {{.schema}}.job ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY;

DROP TABLE {{.schema}}.last_id;
