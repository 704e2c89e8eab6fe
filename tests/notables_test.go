package tests

import (
	"context"
	"errors"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// TestNoOrdinaryTable asks for every kind of relation that is no table of the
// application's, system catalogs among them: run and plan refuse it, and there is no
// job of it.
func TestNoOrdinaryTable(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE SCHEMA app;
		CREATE TABLE app.t (id int PRIMARY KEY, a text);
		CREATE SEQUENCE app.s;
		CREATE TYPE app.c AS (a int);
		CREATE VIEW app.v AS SELECT 1 AS a;
		CREATE MATERIALIZED VIEW app.m AS SELECT 1 AS a;
		CREATE TABLE app.p (id int PRIMARY KEY) PARTITION BY RANGE (id);
		CREATE FOREIGN DATA WRAPPER w;
		CREATE SERVER s FOREIGN DATA WRAPPER w;
		CREATE FOREIGN TABLE app.f (a int) SERVER s`)
	toast := db.QueryString(t, `SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'app.t'::regclass`)
	for _, name := range []string{
		"pg_catalog.pg_class", "pg_attribute", "pg_catalog.pg_authid", "pg_catalog.pg_largeobject", "pg_catalog.pg_trigger",
		"pg_catalog.pg_stat_activity", "pg_catalog.pg_class_oid_index", "information_schema.tables", "information_schema.sql_features",
		toast, toast + "_index", "app.s", "app.c", "app.v", "app.m", "app.f", "app.t_pkey", "app.p_pkey",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused(t, db, name, "cannot be repacked")
			o := options(t, name, repack.ChangeLog)
			var refusal *repack.RefusedError
			if _, err := newRepack(t, db, o).Plan(testContext(t)); !errors.As(err, &refusal) {
				t.Errorf("plan: %v, want it refused", err)
			}
			for verb, inverse := range map[string]func(context.Context) error{
				"reset": newRepack(t, db, o).Reset, "revert": newRepack(t, db, o).Revert,
			} {
				if err := inverse(testContext(t)); !errors.Is(err, repack.ErrNoJob) {
					t.Errorf("%s: %v, want that there is no job", verb, err)
				}
			}
		})
	}
}
