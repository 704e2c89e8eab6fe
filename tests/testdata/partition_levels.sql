CREATE SCHEMA "Up; per";
CREATE TABLE "Up; per"."The; root" (
    id     int  NOT NULL,
    gone   int,
    region text NOT NULL,
    at     date NOT NULL DEFAULT '2020-01-01',
    note   text
) PARTITION BY LIST (region);
CREATE TABLE app.gone (
    note   text,
    x      int,
    region text NOT NULL,
    id     int  NOT NULL,
    gone   int,
    at     date NOT NULL DEFAULT '2020-02-02'
) PARTITION BY RANGE (at);
CREATE TABLE app.t (
    dead   int,
    at     date NOT NULL DEFAULT '2020-03-03',
    note   text DEFAULT 'mine',
    gone   int,
    region text NOT NULL,
    id     int  NOT NULL,
    dead2  text
);
ALTER TABLE app.gone RENAME TO "mid; dle";
ALTER TABLE app."mid; dle" DROP x;
ALTER TABLE app.t DROP dead, DROP dead2;
ALTER TABLE app."mid; dle" ATTACH PARTITION app.t FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
ALTER TABLE "Up; per"."The; root" ATTACH PARTITION app."mid; dle" FOR VALUES IN ('eu', 'us');
CREATE TABLE app.asia PARTITION OF "Up; per"."The; root" DEFAULT;
CREATE TABLE app.later PARTITION OF app."mid; dle" DEFAULT;
ALTER TABLE "Up; per"."The; root" ADD PRIMARY KEY (id, region, at);
ALTER TABLE "Up; per"."The; root" DROP gone;
ALTER TABLE "Up; per"."The; root" ADD CHECK (id > 0);
ALTER TABLE "Up; per"."The; root" ADD CONSTRAINT "notes; all" CHECK (note <> ' ON ');
CREATE INDEX "by; note" ON "Up; per"."The; root" (lower(note) DESC) WHERE id > 5;
CREATE INDEX "mid; note" ON app."mid; dle" (note, region);
CREATE INDEX own ON app.t (at);
COMMENT ON CONSTRAINT "notes; all" ON app.t IS 'of t';
ALTER INDEX app.t_lower_idx ALTER 1 SET STATISTICS 44;
ALTER TABLE app.t CLUSTER ON t_note_region_idx;
INSERT INTO "Up; per"."The; root"
SELECT g, CASE g % 3 WHEN 0 THEN 'eu' WHEN 1 THEN 'us' ELSE 'asia' END, '2020-06-01'::date + g, 'n' || g
FROM   generate_series(1, 600) g
