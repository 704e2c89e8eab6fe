package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// narrowSQL is a table of the ordinary kind, with %[1]d rows.
const narrowSQL = `
CREATE TABLE t (id bigint PRIMARY KEY, customer int NOT NULL, amount numeric(12, 2) NOT NULL, status text NOT NULL,
    created timestamptz NOT NULL, note text);
INSERT INTO t
SELECT g, (random() * 1e6)::int, (random() * 1e4)::numeric(12, 2), (ARRAY['new', 'paid', 'sent', 'done'])[1 + (random() * 3)::int],
       now() - random() * interval '1000 days', md5(g::text) || md5((-g)::text)
FROM   generate_series(1, %[1]d) g;
CREATE INDEX t_customer ON t (customer);
CREATE INDEX t_created ON t (created);
CREATE INDEX t_status ON t (status, created)`

// keysSQL is a table with three indexes of integers, one of which is in the order of
// the rows, or nearly.
const keysSQL = `
CREATE TABLE t (id int PRIMARY KEY, customer int NOT NULL, product int NOT NULL, amount numeric(12, 2) NOT NULL,
    created timestamptz NOT NULL, note text);
INSERT INTO t
SELECT g, (random() * 1e6)::int, (random() * 1e5)::int, (random() * 1e4)::numeric(12, 2), now() - random() * interval '1000 days',
       md5(g::text) || md5((-g)::text)
FROM   generate_series(1, %[1]d) g;
CREATE INDEX t_customer ON t (customer);
CREATE INDEX t_product ON t (product)`

// looseSQL has columns that lose much to alignment.
const looseSQL = `
CREATE TABLE t (a bool NOT NULL, id bigint PRIMARY KEY, b smallint NOT NULL, created timestamptz NOT NULL, c int NOT NULL, d bigint NOT NULL, e bool NOT NULL);
INSERT INTO t
SELECT g %% 2 = 0, g, g %% 1000, now() - random() * interval '1000 days', g, g, g %% 3 = 0
FROM   generate_series(1, %[1]d) g`

// wideSQL has rows of 1.5 kB, some of them TOASTed, and indexes that are costly.
const wideSQL = `
CREATE TABLE t (id bigint PRIMARY KEY, email text NOT NULL, doc jsonb NOT NULL, body text NOT NULL, created timestamptz NOT NULL);
INSERT INTO t
SELECT g, 'user' || g || '@example.org', jsonb_build_object('tags', jsonb_build_array(g %% 100, g %% 7), 'name', md5(g::text)),
       (SELECT string_agg(md5(g::text || i), '') FROM generate_series(1, CASE WHEN g %% 10 = 0 THEN 150 ELSE 40 END) i),
       now() - random() * interval '1000 days'
FROM   generate_series(1, %[1]d) g;
CREATE UNIQUE INDEX t_email ON t (lower(email));
CREATE INDEX t_doc ON t USING gin (doc jsonb_path_ops);
CREATE INDEX t_recent ON t (created) WHERE id %% 3 = 0`

const (
	template = "template_bench" // the database whose files are copied
	copied   = "bench"
)

// prepare makes the database that contenders get copies of.
func (b *bench) prepare(ctx context.Context, statements ...string) error {
	if err := b.exec(ctx, "postgres", "DROP DATABASE IF EXISTS "+template, "CREATE DATABASE "+template); err != nil {
		return err
	}
	if b.hasPgRepack() {
		statements = append(statements, "CREATE EXTENSION pg_repack")
	}
	return b.exec(ctx, template, statements...)
}

func (b *bench) prepareTable(ctx context.Context, ddl string, rows int, more ...string) error {
	statements := []string{fmt.Sprintf(ddl, rows)}
	return b.prepare(ctx, append(append(statements, more...), "DELETE FROM t WHERE hashint8extended(id, 1) % 5 = 0", "VACUUM ANALYZE t", "CHECKPOINT")...)
}

// fresh makes a copy of the template, file by file. (CREATE DATABASE has the
// strategy since PostgreSQL 15; before there was no other.)
func (b *bench) fresh(ctx context.Context) error {
	create := "CREATE DATABASE " + copied + " TEMPLATE " + template
	if b.server.Version() >= 15 {
		create += " STRATEGY file_copy"
	}
	return b.exec(ctx, "postgres", "DROP DATABASE IF EXISTS "+copied, create, "CHECKPOINT")
}

// exec runs statements one by one on a connection of their own.
func (b *bench) exec(ctx context.Context, database string, statements ...string) error {
	conn, err := pgx.Connect(ctx, b.server.ConnString(database))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}
