package catalog

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// givenCounted is givenSession with a count of round trips.
func givenCounted(t *testing.T, db *pgtest.Database) (conn *pgx.Conn, trips func() int) {
	t.Helper()
	config, proxy := db.Through(t, 0)
	conn, err := session.Connect(t.Context(), session.NewTarget(config, session.NoPooler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn, func() int { return proxy.Connections()[0].Trips() }
}

// muchSQL creates a table that has several of each thing that has a query of its own.
const muchSQL = `
CREATE SCHEMA much;
CREATE TABLE much.parent (id int PRIMARY KEY);
CREATE TABLE much.whole (id int PRIMARY KEY, a int DEFAULT 1, b int) PARTITION BY RANGE (id);
CREATE TABLE much.child (id int REFERENCES much.whole);
CREATE TABLE much.t PARTITION OF much.whole FOR VALUES FROM (0) TO (100);
CREATE SEQUENCE much.s1 OWNED BY much.t.a;
CREATE SEQUENCE much.s2 OWNED BY much.t.b;
CREATE SEQUENCE much.s3 OWNED BY much.t.b;
GRANT SELECT ON SEQUENCE much.s1, much.s2 TO PUBLIC;
CREATE INDEX i1 ON much.t ((a + 1));
CREATE INDEX i2 ON much.t (b) WHERE a > 0;
ALTER INDEX much.i1 ALTER 1 SET STATISTICS 7;
ALTER TABLE much.t ADD FOREIGN KEY (a) REFERENCES much.parent, ADD FOREIGN KEY (b) REFERENCES much.parent, ADD CHECK (a > b);
CREATE VIEW much.v1 AS SELECT * FROM much.t;
CREATE VIEW much.v2 AS SELECT * FROM much.t;
CREATE POLICY p1 ON much.t USING (a > 0);
CREATE PUBLICATION much FOR TABLE much.t;
CREATE STATISTICS much.st ON a, b FROM much.t;`

// TestRoundTrips counts the round trips of a description: of the first one on a
// connection, when the driver prepares the queries, and of later ones. The last ones know
// what the table had before.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, describedSQL+muchSQL+`
		CREATE TABLE app.plain (id int PRIMARY KEY);
		CREATE TABLE app.read (id int PRIMARY KEY);
		CREATE MATERIALIZED VIEW app.m1 AS TABLE app.read;
		CREATE MATERIALIZED VIEW app.m2 AS TABLE app.m1;
		CREATE INDEX ON app.m2 (id)`)
	for _, c := range []struct {
		table               string
		first, again, known int
	}{
		{"app.plain", 2, 1, 1},
		{"app.p", 4, 2, 1}, // its extras must be found before they can be described
		{"app.t", 4, 2, 1},
		{"much.t", 4, 2, 1},
		{"app.read", 6, 3, 2}, // materialized views, too
	} {
		oid := pgtest.Query[uint32](t, db.Pool, `SELECT $1::text::regclass::oid`, c.table)
		conn, trips := givenCounted(t, db)
		takes := func(want int, what string, work func() error) {
			t.Helper()
			before := trips()
			if err := work(); err != nil {
				t.Fatal(err)
			}
			if took := trips() - before; took != want {
				t.Errorf("%s took %d round trips, want %d", what, took, want)
			}
		}
		var last *Table
		for _, want := range []int{c.first, c.again, c.again} {
			takes(want, "reading "+c.table, func() (err error) {
				last, err = Read(t.Context(), conn, oid)
				return err
			})
		}
		readKnown := func() error {
			b := &pgx.Batch{}
			is := Queue(b, oid, last)
			if err := conn.SendBatch(t.Context(), b).Close(); err != nil {
				return err
			}
			return Complete(t.Context(), conn, is, last)
		}
		if err := readKnown(); err != nil { // the driver may prepare a query
			t.Fatal(err)
		}
		takes(c.known, "reading "+c.table+" again", readKnown)
		takes(c.known, "reading "+c.table+" like before", func() error {
			_, err := ReadLike(t.Context(), conn, oid, last)
			return err
		})
		for _, m := range last.Matviews { // m2 reads m1, so m1 has dependents
			readOne := func() error {
				_, err := ReadMatview(t.Context(), conn, m.OID, m.Relation)
				return err
			}
			if err := readOne(); err != nil { // the driver may prepare a query
				t.Fatal(err)
			}
			takes(1, fmt.Sprintf("reading %s like before", m.Relation.Name), readOne)
		}
		for _, want := range []int{2, 1} {
			takes(want, "reading the grants of "+c.table, func() error {
				_, err := ReadGrants(t.Context(), conn, oid)
				return err
			})
		}
	}
}

// TestReadFailsNamed checks the errors for a table that does not exist, and in a
// transaction that has failed.
func TestReadFailsNamed(t *testing.T) {
	t.Parallel()
	conn := givenSession(t, pgtest.New(t))
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), tx, 4711); err == nil || !strings.Contains(err.Error(), "describe relation of table 4711: table does not exist") {
		t.Errorf("Read of a table that is not there: %v", err)
	}
	if got := pgtest.Query[int](t, tx, `SELECT 1`); got != 1 {
		t.Errorf("the transaction answers %d", got)
	}
	if _, err := tx.Exec(t.Context(), `SELECT 1 / 0`); err == nil {
		t.Fatal("1 / 0 is something")
	}
	if _, err := Read(t.Context(), tx, 4711); err == nil || !strings.Contains(err.Error(), "describe") || !strings.Contains(err.Error(), "25P02") {
		t.Errorf("Read in a failed transaction: %v", err)
	}
}
