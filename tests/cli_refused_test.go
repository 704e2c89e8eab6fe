package tests

import (
	"fmt"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// TestRefusalNamesTheWayOut: what is said of each dependent is true of it.
func TestRefusalNamesTheWayOut(t *testing.T) {
	t.Parallel()
	const flag = "--rebuild-matviews"
	for _, c := range []struct {
		sql       string
		says, not []string
	}{
		{
			`CREATE FUNCTION app.f(app.t) RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION app.f DEPENDS ON EXTENSION plpgsql`,
			[]string{"function app.f(app.t)"},
			[]string{flag},
		},
		{`CREATE TABLE app.o (r app.t)`, []string{"app.o"}, []string{flag}},
		{`CREATE DOMAIN app.d AS app.t`, []string{"app.d"}, []string{flag}},
		{`CREATE MATERIALIZED VIEW app.m AS SELECT NULL::app.t AS r`, []string{"app.m"}, []string{flag}},
		{`CREATE MATERIALIZED VIEW app.m AS TABLE app.t`, []string{"app.m", flag}, nil},
		{
			`CREATE TABLE app.c (k int CONSTRAINT c_fk REFERENCES app.t); ALTER TABLE app.c DISABLE TRIGGER ALL`,
			[]string{"foreign key c_fk of app.c"},
			nil,
		},
		{
			`ALTER TABLE app.t ADD k int CONSTRAINT up REFERENCES app.t; ALTER TABLE app.t DISABLE TRIGGER ALL`,
			[]string{"foreign key up of app.t"},
			nil,
		},
	} {
		db := pgtest.New(t)
		db.Exec(t, smallSQL+";"+c.sql)
		p := cli(t, db, 3, "run", "--table", "app.t")
		p.says(t, c.says...)
		p.saysNot(t, c.not...)
	}
}

// TestNearNames offers what somebody may have meant.
func TestNearNames(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE SCHEMA app;
		CREATE SCHEMA sales;
		CREATE TABLE sales.orders (id int PRIMARY KEY);
		CREATE TABLE app."Customers" (id int PRIMARY KEY);
		CREATE TABLE app.invoices (id int PRIMARY KEY);
		CREATE TABLE app.t (id int PRIMARY KEY)`)
	for name, want := range map[string]string{
		"orders": `"sales"."orders"`, "sale.orders": `"sales"."orders"`, "sales.ordesr": `"sales"."orders"`, "app.order": `"sales"."orders"`,
		"app.customers": `"app"."Customers"`, "app.invoice": `"app"."invoices"`, "t": `"app"."t"`,
	} {
		for _, verb := range []string{"run", "status", "reset", "revert"} {
			cli(t, db, 3, verb, "--table", name).says(t, "there is no such table", "did you mean "+want)
		}
	}
	cli(t, db, 3, "run", "--table", "x").saysNot(t, "did you mean")
}

// TestDriftInWords is without JSON.
func TestDriftInWords(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL)
	for _, until := range []string{"setup", "swap"} {
		cli(t, db, 0, "run", "--table", "app.t", "--until", until)
		db.Exec(t, `ALTER TABLE app.t ADD extra int; CREATE INDEX another ON app.t (a); ALTER TABLE app.t ALTER a SET NOT NULL`)
		verb, code := "run", 1
		if until == "swap" {
			verb, code = "revert", 3
		}
		p := cli(t, db, code, verb, "--table", "app.t")
		p.says(t, "column extra: added", "index another: added", "column a: not null was no, is yes")
		p.saysNot(t, `{"`, `":`)
		db.Exec(t, `ALTER TABLE app.t DROP extra; DROP INDEX app.another; ALTER TABLE app.t ALTER a DROP NOT NULL`)
		cli(t, db, 0, map[string]string{"setup": "reset", "swap": "revert"}[until], "--table", "app.t")
	}
}

// TestConnectionFailureSaysWhy once, and not what each way to connect came to.
func TestConnectionFailureSaysWhy(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for dsn, want := range map[string]string{
		"postgres://u@127.0.0.1:1/x":                                          "connection refused",
		fmt.Sprintf("host=%s user=postgres dbname=absent", db.Config(t).Host): `"absent" does not exist`,
	} {
		for _, args := range [][]string{{"status"}, {"run", "--table", "t"}} {
			p := cli(t, db, 1, append(args, "--dsn", dsn)...)
			p.says(t, want)
			p.saysNot(t, "tls error")
			if n := strings.Count(p.stderr.String(), "\n"); n != 1 {
				t.Errorf("%d lines:\n%s", n, p.stderr.String())
			}
		}
	}
}
