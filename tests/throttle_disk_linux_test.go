package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// TestMinFreeDisk: a copy that does not fit is refused before anything is changed. A disk that is
// filled from outside stops the run, and the server never meets a full disk.
func TestMinFreeDisk(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, nil)
	v := givenVolume(t, server)
	if v.limited {
		t.Skip("no file system can be mounted")
	}
	db := pgtest.NewOn(t, server)
	twins(t, db, `CREATE TABLE @rows (id int PRIMARY KEY, note text NOT NULL) TABLESPACE small;
		INSERT INTO @rows SELECT g, repeat(md5(g::text), 24) FROM generate_series(1, 24000) g`)
	before := db.Dump(t)
	o := options(t, "app.rows", repack.ChangeLog)
	o.Limits.MinFreeDisk = 105 << 20 // of 160 MB, of which the tables take 43 MB
	var refused *repack.RefusedError
	if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &refused) || !strings.Contains(err.Error(), "needs at most 19 MB in ") ||
		!strings.Contains(err.Error(), "/small") {
		t.Errorf("a copy that does not fit: %v", err)
	}
	if _, err := newRepack(t, db, o).Plan(testContext(t)); !errors.As(err, &refused) {
		t.Errorf("the plan of a copy that does not fit: %v", err)
	}
	sameDump(t, db, before)

	o.Limits.MinFreeDisk = 60 << 20
	o.Jobs, o.BatchSize = 1, 1000
	filler := filepath.Join(server.Dir(), "small", "filler")
	stopped := watch(&o, workStopped)
	fill := once(func() {
		must(t, os.WriteFile(filler, make([]byte, 80<<20), 0o600))
	})
	o.Hooks.AfterChunk = func(context.Context, repack.Progress) error { fill(); return nil }
	done := startRun(t, db, o)
	awaitLog(t, stopped, done)
	pgtest.WaitFor(t, func() bool { return statusOf(t, db, "app.rows").WaitingFor != nil }, "the run to record what it waits for")
	got := statusOf(t, db, "app.rows")
	if want := fmt.Sprintf("are free in %s, limit 60 MB", filepath.Join(server.Dir(), "small")); !strings.Contains(*got.WaitingFor, want) || got.RowsCopied == 0 || got.RowsCopied == 24000 {
		t.Errorf("with %d rows copied, the run waits for %q, not for %q", got.RowsCopied, *got.WaitingFor, want)
	}
	both(t, db.Pool, `UPDATE @rows SET note = 'short' WHERE id % 100 = 0`)
	must(t, os.Remove(filler))
	mustEnd(t, done)
	alike(t, db, "rows")
}
