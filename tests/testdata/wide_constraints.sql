CREATE SCHEMA "Other";
CREATE TABLE "Other"."P" ("I" int, "J" int, PRIMARY KEY ("I", "J"), UNIQUE ("J", "I"), UNIQUE ("J"));
INSERT INTO "Other"."P" VALUES (1, 2);
CREATE TABLE app.p (a int, b int, PRIMARY KEY (a, b));
INSERT INTO app.p VALUES (3, 4);
CREATE TABLE app.o (id int PRIMARY KEY, t int);
CREATE TABLE app.t (
    u      int       UNIQUE,
    a      int       DEFAULT 1 CHECK (a > 0),
    b      int       DEFAULT 2,
    c      int,
    d      text      CONSTRAINT "Odd; name" CHECK (d <> 'it''s'),
    n      int,
    o      int       REFERENCES app.o,
    up     int       REFERENCES app.t (u) ON UPDATE CASCADE ON DELETE SET NULL,
    self   int       CONSTRAINT "self 2" REFERENCES app.t (u) ON DELETE CASCADE DEFERRABLE,
    during tsrange,
    dates  daterange DEFAULT '[2020-01-01, 2020-02-01)',
    CONSTRAINT "My Key" PRIMARY KEY (d, u) INCLUDE (c) WITH (fillfactor = 60),
    CHECK (a < u OR d <> '') NO INHERIT,
    CONSTRAINT with_include UNIQUE (u) INCLUDE (c, a),
    UNIQUE (u, c) WITH (fillfactor = 55),
    UNIQUE (u, a) DEFERRABLE,
    CONSTRAINT "at the end" UNIQUE (u, b) DEFERRABLE INITIALLY DEFERRED,
    EXCLUDE USING gist (during WITH &&) WHERE (u > 0),
    CONSTRAINT "apart; later" EXCLUDE USING gist (during WITH -|-, int4range(u, u, '[]') WITH &&)
        DEFERRABLE INITIALLY DEFERRED,
    EXCLUDE USING btree (u WITH =),
    EXCLUDE USING hash (u WITH =),
    FOREIGN KEY (a, b) REFERENCES "Other"."P" MATCH FULL ON UPDATE CASCADE ON DELETE SET NULL,
    CONSTRAINT "second; key" FOREIGN KEY (b, a) REFERENCES "Other"."P" ("J", "I") ON UPDATE SET DEFAULT
        ON DELETE RESTRICT DEFERRABLE,
    FOREIGN KEY (b) REFERENCES "Other"."P" ("J") ON UPDATE SET NULL ON DELETE SET DEFAULT DEFERRABLE INITIALLY DEFERRED,
    FOREIGN KEY (b) REFERENCES "Other"."P" ("J") ON UPDATE RESTRICT ON DELETE CASCADE
);
ALTER TABLE app.o ADD FOREIGN KEY (t) REFERENCES app.t (u) DEFERRABLE;
INSERT INTO app.t (u, a, b, c, d, n, up, self, during)
VALUES (1, 1, 2, 1, 'x', NULL, 1, 1, '[2020-01-01, 2020-02-01)'),
       (2, NULL, NULL, NULL, 'y', 5, 1, 1, '[2020-02-01, 2020-03-01)');
INSERT INTO app.o VALUES (1, 1);
UPDATE app.t SET o = 1;
SET CONSTRAINTS ALL IMMEDIATE;
ALTER TABLE app.t ADD CONSTRAINT later CHECK (a > 2) NOT VALID;
ALTER TABLE app.t ADD CONSTRAINT later_alone CHECK (a > 3) NO INHERIT NOT VALID;
ALTER TABLE app.t ADD CONSTRAINT key_later FOREIGN KEY (b) REFERENCES "Other"."P" ("J") NOT VALID;
CREATE TABLE "Other"."t" (
    x int REFERENCES app.t (u) ON UPDATE CASCADE ON DELETE CASCADE,
    y int REFERENCES app.t (u) DEFERRABLE INITIALLY DEFERRED,
    z int,
    CONSTRAINT "k; 2" FOREIGN KEY (x, y) REFERENCES app.t (u, c) MATCH FULL ON DELETE SET NULL
);
INSERT INTO "Other"."t" VALUES (1, 1, 3), (NULL, NULL, NULL);
CREATE TABLE app.late (x int DEFAULT 1);
INSERT INTO app.late VALUES (99);
ALTER TABLE app.late ADD CONSTRAINT late FOREIGN KEY (x) REFERENCES app.t (u) ON UPDATE SET DEFAULT NOT VALID;
COMMENT ON CONSTRAINT later ON app.t IS 'not yet';
COMMENT ON CONSTRAINT with_include ON app.t IS 'with';
COMMENT ON INDEX app.with_include IS 'the index';
COMMENT ON CONSTRAINT "My Key" ON app.t IS 'key';
COMMENT ON CONSTRAINT "apart; later" ON app.t IS 'x';
COMMENT ON CONSTRAINT "second; key" ON app.t IS 'it''s';
COMMENT ON CONSTRAINT late ON app.late IS 'late';
COMMENT ON CONSTRAINT "self 2" ON app.t IS 'me'
