-- Jobs, the history of their stages and the chunks of their backfills.
CREATE TABLE {{.schema}}.job (
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_schema   text        NOT NULL,
    table_name     text        NOT NULL,
    source         oid         NOT NULL,
    shadow         oid,
    strategy       text        NOT NULL,
    options        jsonb       NOT NULL,
    stage          text        NOT NULL,
    stage_done     boolean     NOT NULL DEFAULT false,
    state          text        NOT NULL DEFAULT 'active',
    shadow_schema  text        NOT NULL,
    old_schema     text        NOT NULL,
    own_schemas    boolean     NOT NULL,
    change_log     text        NOT NULL,
    capture        text        NOT NULL,
    key_index      text        NOT NULL,
    description    jsonb       NOT NULL,
    filenode       oid,
    blocks         bigint,
    row_estimate   bigint,
    completed_by   text,
    swapped_at     timestamptz,
    claim          text,
    runner_host    text,
    runner_pid     integer,
    runner_since   timestamptz,
    error          text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    finished_at    timestamptz,
    CHECK (state IN ('active', 'reverting', 'resetting', 'finishing', 'done', 'reverted', 'reset'))
);

COMMENT ON COLUMN {{.schema}}.job.stage IS 'latest stage begun';
COMMENT ON COLUMN {{.schema}}.job.description IS 'the source as it was at setup: what DDL during the job is noticed by';
COMMENT ON COLUMN {{.schema}}.job.filenode IS 'file of the source that blocks was measured on';
COMMENT ON COLUMN {{.schema}}.job.completed_by IS 'transaction whose commit put the shadow in step';
COMMENT ON COLUMN {{.schema}}.job.claim IS 'token of the process that may write for the job';

CREATE UNIQUE INDEX job_active_source_key ON {{.schema}}.job (source) WHERE state IN ('active', 'reverting', 'resetting', 'finishing');

CREATE TABLE {{.schema}}.stage_history (
    job_id bigint      NOT NULL REFERENCES {{.schema}}.job (id) ON DELETE CASCADE,
    stage  text        NOT NULL,
    began  timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended  timestamptz,
    error  text
);

CREATE INDEX stage_history_job_id_idx ON {{.schema}}.stage_history (job_id);

-- Blocks of the source that have been copied: first_block inclusive, end_block
-- exclusive. A chunk commits together with its row here.
CREATE TABLE {{.schema}}.chunk (
    job_id      bigint           NOT NULL REFERENCES {{.schema}}.job (id) ON DELETE CASCADE,
    first_block bigint           NOT NULL,
    end_block   bigint           NOT NULL,
    rows        bigint           NOT NULL,
    seconds     double precision NOT NULL,
    ended       timestamptz      NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (job_id, first_block),
    CHECK (end_block > first_block)
);

---- create above / drop below ----

DROP TABLE {{.schema}}.chunk, {{.schema}}.stage_history, {{.schema}}.job;
