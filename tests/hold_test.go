package tests

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// The exchange holds up the application, waits and work together, for no longer than
// the lock timeout. What does not fit is taken back, and the message says how long
// it would take; how long it took in the end is told.
func TestExchangeOfManyKeysIsBounded(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		db.Exec(t, `DO $$ BEGIN FOR n IN 1..400 LOOP
			EXECUTE format('CREATE TABLE app.child_%s (id int PRIMARY KEY, item bigint REFERENCES app.items)', n);
			EXECUTE format('CREATE TABLE control.child_%s (id int PRIMARY KEY, item bigint REFERENCES control.items)', n);
		END LOOP; END $$`)
		before := db.Dump(t)
		runUntil(t, db, o, repack.PostSyncUpdate)
		o.LockTimeout, o.LockRetries = 250*time.Millisecond, 1
		seen, stop := watchWaits(t, db)
		seen.at("the exchange")
		later := startComers(t, db, "app.items", "ACCESS SHARE")
		err := newRepack(t, db, o).Run(testContext(t))
		later.end()
		later.group.Wait()
		stop()
		var timeout *repack.LockTimeoutError
		if !errors.As(err, &timeout) {
			t.Fatalf("run: %v, want a *LockTimeoutError", err)
		}
		for _, words := range []string{`the exchange of "app"."items" needs about `, " ms for 400 foreign keys: raise --lock-timeout"} {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("the message does not say %q:\n%v", words, err)
			}
		}
		seen.within(t, o.LockTimeout+waitMargin)
		if got := statusOf(t, db, "app.items"); got.Swapped || got.LongestLockMS == nil {
			t.Errorf("status after the exchange was taken back: %+v", got)
		}
		o.LockTimeout, o.LockRetries = 30*time.Second, 20
		run(t, db, o)
		if got := statusOf(t, db, "app.items"); got.LongestLockMS == nil || *got.LongestLockMS < 250 {
			t.Errorf("longest lock %v, want that of the exchange", got.LongestLockMS)
		}
		alike(t, db, "items")
		sameDump(t, db, before)
	})
}
