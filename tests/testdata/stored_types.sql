CREATE SCHEMA app;
CREATE TYPE app.pair AS (a text, b numeric);
CREATE TYPE app.mood AS ENUM ('sad', 'ok');
CREATE DOMAIN app.short AS varchar(20) CHECK (VALUE <> '');
CREATE TABLE app.types (
    id    bigint   PRIMARY KEY,
    t     text,
    c     char(10),
    v     varchar(2000),
    b     bytea,
    j     json,
    jb    jsonb,
    x     xml,
    n     numeric(20, 5),
    f4    real,
    f8    float8,
    bo    bool,
    ts    timestamptz,
    iv    interval,
    tz    timetz,
    u     uuid,
    ip    inet,
    mac   macaddr,
    bits  bit varying,
    m     money,
    oids  oid,
    na    name,
    ints  int[],
    texts text[],
    pair  app.pair,
    pairs app.pair[],
    mood  app.mood,
    dom   app.short,
    r     tstzrange,
    mr    int4multirange,
    vec   tsvector,
    p     point,
    poly  polygon,
    ch    "char",
    g     text     GENERATED ALWAYS AS (t || coalesce(c, '')) STORED,
    ga    text[]   GENERATED ALWAYS AS (ARRAY[t, v]) STORED,
    gn    numeric  GENERATED ALWAYS AS (n * 1.50) STORED,
    gj    jsonb    GENERATED ALWAYS AS (jb || '{"z": 1.10}') STORED,
    gp    app.pair GENERATED ALWAYS AS (ROW(t, n)::app.pair) STORED
);
INSERT INTO app.types
SELECT i, w, 'x' || i, repeat('v', i % 1999), convert_to(w, 'UTF8'), json_build_object('w', w),
       jsonb_build_object('w', w), '<a/>', i / 7.0, i / 3.0, 'NaN', i % 2 = 0, now(), '1 mon 30 days', '12:00+02',
       gen_random_uuid(), '10.0.0.1/8', '08:00:2b:01:02:03', B'101', i, i, 'name', ARRAY[i, NULL, 3], ARRAY[w, NULL],
       ROW(w, i)::app.pair, ARRAY[ROW(w, 1.10), ROW(NULL, NULL)]::app.pair[], 'ok', 'dom', tstzrange(now(), NULL),
       '{[1,3),[5,7)}', to_tsvector('simple', left(w, 1000)), '(1,-0)', '((0,0),(1,1),(2,0))', 'q'
FROM   (SELECT i, CASE i % 4 WHEN 0 THEN repeat('compress me ', 400)
       WHEN 1 THEN (SELECT string_agg(md5(i * k::text::int || ''), '') FROM generate_series(1, 300) AS k)
       WHEN 2 THEN 'short' END AS w FROM generate_series(1, 400) AS i) AS s;
ALTER TABLE app.types ADD COLUMN late text NOT NULL DEFAULT 'never stored', ADD COLUMN lists int[] DEFAULT '{1,2,3}';
DO $$
DECLARE r app.types;
BEGIN
    FOR r IN SELECT * FROM app.types WHERE id % 5 = 0 LOOP
        r.ints[2] := 7;
        r.pair.a := r.t;
        UPDATE app.types SET ints = r.ints, pair = r.pair, texts = array_append(r.texts, r.t) WHERE id = r.id;
    END LOOP;
END $$
