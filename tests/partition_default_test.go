package tests

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// TestLargeDefaultPartition: ATTACH reads the default partition under lock. That is timed
// beforehand, and again before the exchange and before a revert.
func TestLargeDefaultPartition(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `CREATE SCHEMA app;
			CREATE TABLE app.p (id int PRIMARY KEY, a int) PARTITION BY RANGE (id);
			CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000);
			CREATE TABLE app.rest PARTITION OF app.p DEFAULT PARTITION BY RANGE (id);
			CREATE TABLE app."Rest" PARTITION OF app.rest FOR VALUES FROM (1000) TO (100000);
			CREATE TABLE app.small PARTITION OF app.rest DEFAULT;
			INSERT INTO app.p SELECT g, g FROM generate_series(1, 40000) g`)
		dump := db.Dump(t)
		o := options(t, "app.t", strategy)
		short := o
		short.LockTimeout = 2 * time.Millisecond
		slow := func(err error) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), `default partition "app"."rest"`) || !strings.Contains(err.Error(), "more than half of the lock timeout of 2ms") {
				t.Errorf("%v, want the default partition named", err)
			}
		}
		var refusal *repack.RefusedError
		err := newRepack(t, db, short).Run(testContext(t))
		if slow(err); !errors.As(err, &refusal) {
			t.Errorf("%v, want it refused", err)
		}
		runUntil(t, db, o, repack.PostSyncUpdate)
		slow(newRepack(t, db, short).Run(testContext(t)))
		runUntil(t, db, o, repack.Swap)
		slow(newRepack(t, db, short).Revert(testContext(t)))
		revert(t, db, o)
		sameDump(t, db, dump)
		run(t, db, o)
		sameDump(t, db, dump)
		noArtefacts(t, db)
		if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM app.p`); n != 40000 {
			t.Errorf("%d rows are left", n)
		}
	})
}
