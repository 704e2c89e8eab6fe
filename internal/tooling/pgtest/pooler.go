package pgtest

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Pooled starts a PgBouncer with these settings in front of the server and
// returns a configuration for connections through it. It ends with the test.
func (db *Database) Pooled(t testing.TB, settings map[string]string) *pgx.ConnConfig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	pooler, err := db.server.StartPooler(ctx, settings)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		if err := pooler.Close(); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	config, err := pgx.ParseConfig(pooler.ConnString(db.Name))
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return config
}
