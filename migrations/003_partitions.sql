-- A repack of a partitioned table: one job for each of its partitions.
CREATE TABLE {{.schema}}.partitioned (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_schema text        NOT NULL,
    table_name   text        NOT NULL,
    source       oid         NOT NULL,
    began        timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended        timestamptz
);

COMMENT ON COLUMN {{.schema}}.partitioned.ended IS 'null: to be gone on with';

CREATE UNIQUE INDEX partitioned_source_key ON {{.schema}}.partitioned (source) WHERE ended IS NULL;

ALTER TABLE {{.schema}}.job ADD COLUMN partitioned bigint REFERENCES {{.schema}}.partitioned (id);

COMMENT ON COLUMN {{.schema}}.job.partitioned IS 'the repack of a partitioned table that the job belongs to';

---- create above / drop below ----

ALTER TABLE {{.schema}}.job DROP COLUMN partitioned;

DROP TABLE {{.schema}}.partitioned;
