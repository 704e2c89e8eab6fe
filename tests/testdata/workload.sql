CREATE SCHEMA control;
CREATE SCHEMA app;
CREATE TABLE app.parent (id bigint PRIMARY KEY);
INSERT INTO app.parent SELECT generate_series(1, 50);
CREATE TABLE app.t (
    id     bigint PRIMARY KEY,
    owner  int    NOT NULL,
    email  text   UNIQUE,
    pos    int    NOT NULL,
    note   text,
    parent bigint REFERENCES app.parent ON DELETE SET NULL,
    up     bigint REFERENCES app.t ON UPDATE CASCADE ON DELETE SET NULL,
    lower  text GENERATED ALWAYS AS (lower(note)) STORED,
    UNIQUE (owner, pos) DEFERRABLE INITIALLY IMMEDIATE
);
CREATE INDEX ON app.t (note) WHERE pos % 2 = 0;
CREATE INDEX ON app.t (up);
CREATE INDEX ON app.t (parent);
INSERT INTO app.t (id, owner, email, pos, note, parent)
SELECT g, g % {writers}, 'e' || g, g, repeat('n', g::int % 100), 1 + g % 50 FROM generate_series(1, {rows}) g;
CREATE TABLE control.t (LIKE app.t INCLUDING ALL);
INSERT INTO control.t (id, owner, email, pos, note, parent) SELECT id, owner, email, pos, note, parent FROM app.t;
CREATE TABLE app.child (
    id bigserial PRIMARY KEY,
    t  bigint    NOT NULL REFERENCES app.t ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE INDEX ON app.child (t);
INSERT INTO app.child (t) SELECT id FROM app.t WHERE id % 10 = 0;
CREATE TABLE control.child (
    id bigint PRIMARY KEY,
    t  bigint NOT NULL REFERENCES control.t ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE INDEX ON control.child (t);
INSERT INTO control.child SELECT * FROM app.child;
ALTER TABLE control.t ADD FOREIGN KEY (up) REFERENCES control.t ON UPDATE CASCADE ON DELETE SET NULL;
