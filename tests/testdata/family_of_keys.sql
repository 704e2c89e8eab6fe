CREATE TABLE @parent (id int PRIMARY KEY);
INSERT INTO @parent SELECT generate_series(1, 40);
CREATE TABLE @region (id int, name text, PRIMARY KEY (id, name)) PARTITION BY LIST (name);
CREATE TABLE @region_b PARTITION OF @region FOR VALUES IN ('b');
CREATE TABLE @region_a PARTITION OF @region FOR VALUES IN ('a');
INSERT INTO @region SELECT g, chr(97 + g % 2) FROM generate_series(1, 20) g;
CREATE TABLE @t (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    code    text   NOT NULL UNIQUE,
    a       int    NOT NULL,
    b       int    NOT NULL,
    pos     int    UNIQUE DEFERRABLE,
    serial  int    GENERATED ALWAYS AS IDENTITY,
    parent  int    REFERENCES @parent ON DELETE CASCADE ON UPDATE CASCADE,
    region  int,
    name    text,
    up      bigint REFERENCES @t ON DELETE SET NULL ON UPDATE CASCADE,
    newest  int,
    UNIQUE (a, b),
    CONSTRAINT t_region FOREIGN KEY (region, name) REFERENCES @region ON DELETE SET NULL
);
INSERT INTO @t (code, a, b, pos, parent, region, name, up)
SELECT 'c' || g, g % 10, g / 10, g, 1 + g % 40, 1 + g % 20, chr(97 + (1 + g % 20) % 2), nullif(g / 2, 0)
FROM   generate_series(1, 300) g;
CREATE TABLE @child (id int PRIMARY KEY, t bigint NOT NULL REFERENCES @t ON DELETE CASCADE ON UPDATE CASCADE);
INSERT INTO @child SELECT id, id FROM @t WHERE id % 10 = 0;
ALTER TABLE @t ADD CONSTRAINT t_newest FOREIGN KEY (newest) REFERENCES @child ON DELETE SET NULL
    DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE @pair (
    a int,
    b int,
    CONSTRAINT pair_t FOREIGN KEY (a, b) REFERENCES @t (a, b) MATCH FULL ON UPDATE CASCADE ON DELETE CASCADE
);
INSERT INTO @pair SELECT a, b FROM @t WHERE id % 7 = 0;
CREATE TABLE @note (
    code text CONSTRAINT a_note_with_quite_a_long_name_so_that_another_does_not_fit_here REFERENCES @t (code)
        ON UPDATE CASCADE ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO @note SELECT code FROM @t WHERE id % 13 = 0;
CREATE TABLE @stray (t bigint);
INSERT INTO @stray VALUES (100000);
ALTER TABLE @stray ADD CONSTRAINT stray_t FOREIGN KEY (t) REFERENCES @t DEFERRABLE NOT VALID;
COMMENT ON CONSTRAINT child_t_fkey ON @child IS 'it''s a key';
COMMENT ON CONSTRAINT t_parent_fkey ON @t IS 'its key';
