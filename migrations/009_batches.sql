-- Runs over several tables. The same command continues one that has not ended.
CREATE TABLE {{.schema}}.batch (
    id        bigint      PRIMARY KEY,
    selection jsonb       NOT NULL,
    began     timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended     timestamptz
);

COMMENT ON COLUMN {{.schema}}.batch.selection IS 'by what the tables were chosen';
COMMENT ON COLUMN {{.schema}}.batch.ended IS 'null: to be continued';

CREATE TABLE {{.schema}}.batch_table (
    batch_id     bigint  NOT NULL REFERENCES {{.schema}}.batch (id) ON DELETE CASCADE,
    n            integer NOT NULL,
    table_schema text    NOT NULL,
    table_name   text    NOT NULL,
    bytes        bigint  NOT NULL,
    result       text,
    reason       text    NOT NULL DEFAULT '',
    bytes_after  bigint,
    ended        timestamptz,
    PRIMARY KEY (batch_id, n),
    CHECK (result IN ('done', 'skipped', 'refused'))
);

COMMENT ON COLUMN {{.schema}}.batch_table.bytes IS 'size before, with indexes and TOAST';
COMMENT ON COLUMN {{.schema}}.batch_table.result IS 'null: not done yet';

-- Who may write jobs may write here.
DO $batch$
DECLARE
    role text;
BEGIN
    FOR role IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END
        FROM   pg_class c
        CROSS  JOIN LATERAL aclexplode(c.relacl) a
        WHERE  c.oid = {{.job}}::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {{.schema}}.batch, {{.schema}}.batch_table TO %s', role);
    END LOOP;
END
$batch$;

---- create above / drop below ----

DROP TABLE {{.schema}}.batch_table, {{.schema}}.batch;
