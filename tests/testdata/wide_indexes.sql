CREATE COLLATION app.german (provider = icu, locale = 'de');
CREATE TABLE app.t (
    id             int,
    n              int  NOT NULL UNIQUE,
    a              text,
    b              int,
    c              int[],
    d              point,
    e              tsvector,
    f              inet,
    "odd ""column" text CHECK ("odd ""column" <> ''),
    PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED
)
    WITH (fillfactor = 70, autovacuum_enabled = off, autovacuum_vacuum_scale_factor = 0.25, parallel_workers = 3,
    toast_tuple_target = 200, toast.autovacuum_enabled = off, toast.autovacuum_vacuum_threshold = 7);
CREATE INDEX ON app.t USING btree (a);
CREATE INDEX ON app.t USING hash (a);
CREATE INDEX ON app.t USING gin (c) WITH (fastupdate = off);
CREATE INDEX ON app.t USING gin (e);
CREATE INDEX ON app.t USING gist (d) WITH (buffering = on);
CREATE INDEX ON app.t USING spgist (d);
CREATE INDEX ON app.t USING spgist (f inet_ops);
CREATE INDEX ON app.t USING brin (id) WITH (pages_per_range = 4, autosummarize = on);
CREATE INDEX ON app.t USING brin (f inet_inclusion_ops, a);
CREATE INDEX ON app.t USING gist (e tsvector_ops (siglen = 100));
CREATE INDEX "Partial; ON app.t" ON app.t (a) WHERE a <> ' ON app.t USING' AND b > 0;
CREATE INDEX ON app.t (lower(a), (b + 1), (a || 'x') COLLATE "C" DESC);
CREATE INDEX ON app.t (a text_pattern_ops, a varchar_pattern_ops DESC NULLS LAST);
CREATE INDEX ON app.t (a COLLATE app.german NULLS FIRST, b DESC NULLS LAST, id ASC) INCLUDE (b);
CREATE INDEX ON app.t (b) WITH (fillfactor = 33, deduplicate_items = off);
CREATE UNIQUE INDEX ON app.t (lower(a)) WHERE b IS NULL;
CREATE INDEX stats ON app.t (b, (b + 1), lower(a));
ALTER INDEX app.stats ALTER 2 SET STATISTICS 55;
ALTER INDEX app.stats ALTER 3 SET STATISTICS 0;
CREATE INDEX clustered ON app.t (a);
ALTER TABLE app.t CLUSTER ON clustered;
CREATE UNIQUE INDEX "the Index" ON app.t (n);
ALTER TABLE app.t REPLICA IDENTITY USING INDEX "the Index";
COMMENT ON INDEX app.clustered IS 'it''s "clustered"; \';
COMMENT ON INDEX app.t_pkey IS ' ';
COMMENT ON CONSTRAINT t_pkey ON app.t IS '''';
COMMENT ON TABLE app.t IS E'it''s; "a"\n\\ table $$ -- /* %s {{x}}';
COMMENT ON COLUMN app.t."odd ""column" IS E'\\''s';
COMMENT ON CONSTRAINT "t_odd ""column_check" ON app.t IS 'ä';
INSERT INTO app.t
SELECT g, g, 'a' || g, g, ARRAY[g], point(g, g), to_tsvector('a b'), '10.0.0.1', repeat('x', 5000)
FROM   generate_series(1, 99) g
