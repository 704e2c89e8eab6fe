-- Comparisons of source and shadow: the latest one decides whether a job may go
-- on to the swap.
CREATE TABLE {{.schema}}.verification (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id     bigint      NOT NULL REFERENCES {{.schema}}.job (id) ON DELETE CASCADE,
    mode       text        NOT NULL,
    rows       bigint      NOT NULL,
    mismatches bigint      NOT NULL,
    ended      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (mode IN ('sample', 'full'))
);

COMMENT ON COLUMN {{.schema}}.verification.mismatches IS 'zero: passed';

CREATE INDEX verification_job_id_idx ON {{.schema}}.verification (job_id);

---- create above / drop below ----

DROP TABLE {{.schema}}.verification;
