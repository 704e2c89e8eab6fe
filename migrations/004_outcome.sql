-- What a job leaves to be told afterwards: how long it kept others waiting, and
-- whether it was stopped by a signal.
ALTER TABLE {{.schema}}.job
    ADD COLUMN longest_lock_ms bigint,
    ADD COLUMN interrupted     boolean NOT NULL DEFAULT false;

COMMENT ON COLUMN {{.schema}}.job.longest_lock_ms IS 'longest time that the job held ACCESS EXCLUSIVE on the table';
COMMENT ON COLUMN {{.schema}}.job.interrupted IS 'stopped by a signal, not by an error';

---- create above / drop below ----

ALTER TABLE {{.schema}}.job DROP COLUMN longest_lock_ms, DROP COLUMN interrupted;
