//go:build unix

package tests

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgserver"
	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// writtenSQL is a table of a few dozen blocks.
const writtenSQL = `
CREATE TABLE @t (id int PRIMARY KEY, n int NOT NULL, pad text NOT NULL);
INSERT INTO @t SELECT i, i, repeat('x', 100) FROM generate_series(1, 3000) i;
ANALYZE @t`

// walServer loses at a crash what no commit has waited for: its WAL stays in
// memory while the process that would write it is stopped.
type walServer struct {
	*pgserver.Server
	walWriter, checkpointer int
}

// stopWriting stops that process.
func (s *walServer) stopWriting(t *testing.T, db *pgtest.Database) {
	t.Helper()
	process := func(kind string) int {
		return pgtest.Query[int](t, db.Pool, `SELECT pid FROM pg_stat_activity WHERE backend_type = '`+kind+`'`)
	}
	s.walWriter, s.checkpointer = process("walwriter"), process("checkpointer")
	if err := syscall.Kill(s.walWriter, syscall.SIGSTOP); err != nil {
		t.Errorf("stop the WAL writer: %v", err)
	}
}

// crash stops the server at once. The WAL writer goes on when the signal to end has
// been sent to it.
func (s *walServer) crash(t *testing.T) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- s.Stop(pgserver.Immediate) }()
	pgtest.WaitFor(t, func() bool { return errors.Is(syscall.Kill(s.checkpointer, 0), syscall.ESRCH) }, "the server to end")
	if err := syscall.Kill(s.walWriter, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Errorf("let the WAL writer end: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("crash: %v", err)
	}
}

func (s *walServer) recover(t *testing.T, db *pgtest.Database) {
	t.Helper()
	if err := s.Restart(testContext(t)); err != nil {
		t.Fatal(err)
	}
	db.Pool.Reset() // its connections are those of before
}

func newWALServer(t *testing.T) *walServer {
	t.Helper()
	return &walServer{Server: pgtest.NewServer(t, map[string]string{"wal_buffers": "16MB", "autovacuum": "off"})}
}

// TestCrashLosesCommittedChunks crashes the server when the run has been told that
// three chunks are committed, and only the first has waited for the disk. What is
// lost is lost with its record.
func TestCrashLosesCommittedChunks(t *testing.T) {
	t.Parallel()
	server := newWALServer(t)
	for _, c := range []struct {
		strategy string
		transfer repack.Transfer
	}{
		{repack.ChangeLog, repack.TransferServer},
		{repack.ChangeLog, repack.TransferClient},
		{repack.DirectTrigger, repack.TransferAuto},
	} {
		t.Run(fmt.Sprintf("%s, %s", c.strategy, c.transfer), func(t *testing.T) {
			db := pgtest.NewOn(t, server.Server)
			twins(t, db, writtenSQL)
			before := db.Dump(t)
			o := options(t, "app.t", c.strategy)
			o.Jobs, o.BatchSize, o.RetryFor, o.Transfer = 1, 100, -1, c.transfer
			chunks := 0
			o.Hooks.AfterChunk = func(context.Context, repack.Progress) error {
				switch chunks++; chunks {
				case 1:
					both(t, db.Pool, `UPDATE @t SET n = -n WHERE id % 100 = 7`)
					server.stopWriting(t, db)
				case 3:
					server.crash(t)
				}
				return nil
			}
			if err := newRepack(t, db, o).Run(testContext(t)); err == nil || chunks != 3 {
				t.Fatalf("the run ended after %d chunks with: %v", chunks, err)
			}
			server.recover(t, db)
			recorded := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM repack_registry.chunk`)
			if recorded == 0 || recorded >= chunks {
				t.Errorf("%d of %d chunks are recorded: that none was lost shows nothing", recorded, chunks)
			}
			o.Hooks.AfterChunk = nil
			run(t, db, o)
			alike(t, db, "t")
			sameDump(t, db, before)
			noArtefacts(t, db)
		})
	}
}

// TestCrashLosesCommittedBatches is the same for batches of the replay.
func TestCrashLosesCommittedBatches(t *testing.T) {
	t.Parallel()
	server := newWALServer(t)
	for _, jobs := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d jobs", jobs), func(t *testing.T) {
			db := pgtest.NewOn(t, server.Server)
			twins(t, db, writtenSQL)
			before := db.Dump(t)
			o := options(t, "app.t", repack.ChangeLog)
			runUntil(t, db, o, repack.SyncSchema)
			for n := range 6 {
				both(t, db.Pool, fmt.Sprintf(`UPDATE @t SET n = n + 1 WHERE id %% 6 >= %d`, n),
					fmt.Sprintf(`DELETE FROM @t WHERE id %% 100 = %d`, n))
			}
			log := "repack_job_1." + pgtest.Query[string](t, db.Pool, `SELECT change_log FROM repack_registry.job`)
			logged := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM `+log)
			o.Jobs, o.BatchSize, o.RetryFor = jobs, 200*jobs*jobs, -1 // batches of so many blocks
			var batches atomic.Int64
			var replayed int
			onLog(&o, func(message string) {
				if message != "batch replayed" {
					return
				}
				switch batches.Add(1) {
				case 1:
					server.stopWriting(t, db)
				case 2:
					replayed = logged - pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM `+log)
					server.crash(t)
				}
			})
			if err := newRepack(t, db, o).Run(testContext(t)); err == nil || batches.Load() != 2 {
				t.Fatalf("the run ended after %d batches with: %v", batches.Load(), err)
			}
			server.recover(t, db)
			if left := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM `+log); left == logged || logged-left >= replayed {
				t.Errorf("%d changes were replayed, and %d are gone from the log: that none was lost shows nothing", replayed, logged-left)
			}
			run(t, db, options(t, "app.t", repack.ChangeLog))
			alike(t, db, "t")
			sameDump(t, db, before)
			noArtefacts(t, db)
		})
	}
}
