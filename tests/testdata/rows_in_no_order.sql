CREATE SCHEMA app;
CREATE COLLATION app.backwards (provider = icu, locale = 'und-u-co-standard-kf-upper');
CREATE TABLE app.t (
    id             int     PRIMARY KEY,
    a              int,
    gone           int,
    b              char(3) COLLATE "C",
    placed         timestamptz,
    "Odd, ""one""" int     NOT NULL,
    "desc"         int     NOT NULL,
    "nulls first"  int     NOT NULL,
    doc            json,
    twice          int     GENERATED ALWAYS AS (id * 2) STORED
) WITH (fillfactor = 40);
ALTER TABLE app.t DROP COLUMN gone;
INSERT INTO app.t (id, a, b, placed, "Odd, ""one""", "desc", "nulls first")
SELECT i, CASE WHEN i % 7 <> 0 THEN hashint4(i) % 100 END, CASE i % 3 WHEN 0 THEN 'aBc'
       WHEN 1 THEN 'ABC' ELSE 'abd' END, '2026-01-01'::timestamptz + hashint4(i + 1) * interval '1 minute',
       hashint4(i + 2), hashint4(i + 3), hashint4(i + 4)
FROM   generate_series(1, 4000) i
ORDER BY hashint4(i + 5);
CREATE INDEX by_a ON app.t (a DESC NULLS LAST, id DESC);
CREATE INDEX by_expression ON app.t (abs(id - 2000) DESC, (b || 'x') COLLATE app.backwards NULLS FIRST) INCLUDE (a);
CREATE INDEX by_collation ON app.t (b COLLATE app.backwards, "desc");
CREATE INDEX by_pattern ON app.t ((b::text) text_pattern_ops DESC, id);
CREATE INDEX "By, ""Name""" ON app.t ("Odd, ""one""");
CREATE INDEX partial ON app.t (a) WHERE a > 5;
CREATE INDEX by_hash ON app.t USING hash (a);
CREATE INDEX id ON app.t (id DESC);
ANALYZE app.t
