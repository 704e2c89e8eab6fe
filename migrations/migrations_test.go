package migrations_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func connect(t *testing.T, config *pgx.ConnConfig) *pgx.Conn {
	t.Helper()
	conn, err := session.Connect(t.Context(), session.NewTarget(config, session.NoPooler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestApplyAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, schema := range []string{"repack_registry", `Odd "schema"; {{.schema}}`} {
		var versions []string
		for range 2 {
			if err := migrations.Apply(t.Context(), connect(t, db.Config(t)), schema); err != nil {
				t.Fatalf("apply to %q: %v", schema, err)
			}
			versions = append(versions, db.QueryString(t, `SELECT version FROM `+pgx.Identifier{schema, "schema_version"}.Sanitize()))
		}
		if versions[0] != versions[1] || versions[0] == "0" {
			t.Errorf("versions %q", versions)
		}
		if current, err := migrations.Current(t.Context(), connect(t, db.Config(t)), schema); err != nil || !current {
			t.Errorf("check %q: %v", schema, err)
		}
	}
	if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace`); n != 0 {
		t.Errorf("%d relations outside the registry", n)
	}
}

func TestApplyAtTheSameTime(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var group sync.WaitGroup
	for range 5 {
		conn := connect(t, db.Config(t))
		group.Go(func() {
			if err := migrations.Apply(context.Background(), conn, "repack_registry"); err != nil {
				t.Errorf("apply beside others: %v", err)
			}
		})
	}
	group.Wait()
}

func TestNewer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := connect(t, db.Config(t))
	if err := migrations.Apply(t.Context(), conn, "r"); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `UPDATE r.schema_version SET version = version + 1`)
	before := db.CatalogDump(t)
	conn = connect(t, db.Config(t))
	if err := migrations.Apply(t.Context(), conn, "r"); !errors.Is(err, migrations.ErrNewerRegistry) {
		t.Errorf("Apply: %v, want ErrNewerRegistry", err)
	}
	if _, err := migrations.Current(t.Context(), conn, "r"); !errors.Is(err, migrations.ErrNewerRegistry) {
		t.Errorf("Check: %v, want ErrNewerRegistry", err)
	}
	if db.CatalogDump(t) != before {
		t.Error("a newer registry was changed")
	}
}

// TestPreparedSchema checks that a prepared schema is enough: the role needs no CREATE
// on the database.
func TestPreparedSchema(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role := db.Role(t)
	config := db.Config(t)
	config.User = role
	if err := migrations.Apply(t.Context(), connect(t, config), "r"); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("Apply without any right: %v", err)
	}
	db.Exec(t, `CREATE SCHEMA r; GRANT USAGE, CREATE ON SCHEMA r TO `+role)
	if err := migrations.Apply(t.Context(), connect(t, config), "r"); err != nil {
		t.Errorf("Apply to a prepared schema: %v", err)
	}
}
