-- What longest_lock_ms is: all strong locks of a transaction, and the wait for them.
COMMENT ON COLUMN {{.schema}}.job.longest_lock_ms IS 'longest time, in milliseconds, that a transaction of the job held strong locks, counted from its request for the first';

---- create above / drop below ----

COMMENT ON COLUMN {{.schema}}.job.longest_lock_ms IS 'longest time that the job held ACCESS EXCLUSIVE on the table';
