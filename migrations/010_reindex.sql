-- Indexes that are being rebuilt. If a REINDEX CONCURRENTLY does not end, it leaves an index that
-- is invalid: what is remembered here tells it from those of others.
CREATE TABLE {{.schema}}.reindex (
    id         bigint      PRIMARY KEY,
    table_oid  oid         NOT NULL,
    index_oid  oid         NOT NULL,
    index_name text        NOT NULL,
    others     oid[]       NOT NULL,
    began      timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended      timestamptz
);

COMMENT ON COLUMN {{.schema}}.reindex.others IS 'invalid indexes of the table that were there before';
COMMENT ON COLUMN {{.schema}}.reindex.ended IS 'null: what it has left may still be there';

-- Who may write jobs may write here.
DO $reindex$
DECLARE
    role text;
BEGIN
    FOR role IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END
        FROM   pg_class c
        CROSS  JOIN LATERAL aclexplode(c.relacl) a
        WHERE  c.oid = {{.job}}::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {{.schema}}.reindex TO %s', role);
    END LOOP;
END
$reindex$;

---- create above / drop below ----

DROP TABLE {{.schema}}.reindex;
