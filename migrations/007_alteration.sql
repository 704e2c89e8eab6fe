-- What a job changes of its table, besides repacking it.
ALTER TABLE {{.schema}}.job ADD COLUMN alteration jsonb;

COMMENT ON COLUMN {{.schema}}.job.alteration IS 'what the job changes of the table; null: nothing';

---- create above / drop below ----

ALTER TABLE {{.schema}}.job DROP COLUMN alteration;
