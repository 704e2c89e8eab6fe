package tests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgserver"
	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// volume is where a table is that has no room to grow, and its copy has none
// either. The write-ahead log and the change log are elsewhere.
type volume struct {
	tablespace string // empty: the database's own
	fill, give func(t *testing.T, db *pgtest.Database)
	// limited tells that it is files that cannot grow, which the server does not
	// call a full disk, and of which nothing is won by removing others.
	limited bool
}

// givenVolume makes a small file system. Without the right to mount one it limits
// the size of files that sessions of the server may write: to what the
// write-ahead log needs, and less than the copy does.
func givenVolume(t *testing.T, server *pgserver.Server) volume {
	t.Helper()
	dir := filepath.Join(server.Dir(), "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=160m,mode=700"); err != nil {
		t.Logf("no file system can be mounted (%v): limiting file sizes", err)
		return limitedFiles(server)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	owner := ownerOf(t, server)
	if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
		t.Fatal(err)
	}
	pgtest.NewOn(t, server).Exec(t, fmt.Sprintf(`CREATE TABLESPACE small LOCATION '%s'`, dir))
	filler := filepath.Join(dir, "filler")
	return volume{
		tablespace: "TABLESPACE small",
		fill:       func(t *testing.T, _ *pgtest.Database) { fillUp(t, filler) },
		give: func(t *testing.T, _ *pgtest.Database) {
			if err := os.Remove(filler); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		},
	}
}

// ownerOf is the account that the server runs as.
func ownerOf(t *testing.T, server *pgserver.Server) *syscall.Credential {
	t.Helper()
	info, err := os.Stat(filepath.Join(server.Dir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	return &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}
}

// zeros is a file without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func fillUp(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := io.Copy(file, zeros{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("fill the volume: %v, want no space left", err)
	}
}

// walSegment is what a session has to be able to write.
const walSegment = 16 << 20

// sessionsSQL are the processes that write for a client.
const sessionsSQL = `SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'`

// limitedFiles limits the server, for the sessions to come, and those there are.
func limitedFiles(server *pgserver.Server) volume {
	limit := func(t *testing.T, db *pgtest.Database, size string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(server.Dir(), "data", "postmaster.pid"))
		if err != nil {
			t.Fatal(err)
		}
		postmaster, _, _ := strings.Cut(string(text), "\n")
		pids := []string{postmaster}
		for _, pid := range pgtest.Column[int32](t, db.Pool, sessionsSQL) {
			pids = append(pids, fmt.Sprint(pid))
		}
		for _, pid := range pids {
			cmd := exec.Command("prlimit", "--pid", pid, "--fsize="+size+":unlimited")
			if os.Geteuid() == 0 { // which without CAP_SYS_RESOURCE limits nobody else
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: ownerOf(t, server)}
			}
			// A session may have ended meanwhile.
			if out, err := cmd.CombinedOutput(); err != nil && !strings.Contains(string(out), "No such process") {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	return volume{
		limited: true,
		fill:    func(t *testing.T, db *pgtest.Database) { limit(t, db, fmt.Sprint(walSegment)) },
		give:    func(t *testing.T, db *pgtest.Database) { limit(t, db, "unlimited") },
	}
}

// roomySQL is a table with room for rows, whose copy will have none, and is
// larger than a segment of the write-ahead log; and one that has to grow.
const roomySQL = `
CREATE TABLE @t (id int PRIMARY KEY, note text NOT NULL) {tablespace};
INSERT INTO @t SELECT i, repeat('n', 900) FROM generate_series(1, 40000) i;
DELETE FROM @t WHERE id % 3 = 0;
CREATE TABLE @growing (id int, note text) {tablespace}`

// growSQL takes about 1 MB each time.
const growSQL = `INSERT INTO @growing SELECT i, repeat('g', 900) FROM generate_series(1, 1000) i`

func givenRoomy(t *testing.T, db *pgtest.Database, v volume) {
	t.Helper()
	twins(t, db, strings.ReplaceAll(roomySQL, "{tablespace}", v.tablespace))
	db.Exec(t, `VACUUM app.t`)
	db.Exec(t, `VACUUM control.t`)
}

// TestDiskFull has the volume run full at some places of a run. The run fails, and
// gives back what it has there: the application, whose own table has room, notices
// nothing, and others find room to grow. With space given the run begins anew.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, nil)
	v := givenVolume(t, server)
	for n, place := range []string{beforeBackfill, midBackfill, beforeSyncSchema, repack.StepWritingThrough} {
		for _, strategy := range turn(n) {
			t.Run(strategy+"/"+place, func(t *testing.T) { fullAt(t, pgtest.NewOn(t, server), v, strategy, place) })
		}
	}
}

func fullAt(t *testing.T, db *pgtest.Database, v volume, strategy, place string) {
	givenRoomy(t, db, v)
	defer v.give(t, db)
	before := db.Dump(t)
	o := options(t, "app.t", strategy)
	o.Hooks = fullPlace(place, func() {
		v.fill(t, db)
		for i := range 10 {
			both(t, db.Pool,
				fmt.Sprintf(`INSERT INTO @t SELECT 3 * i, repeat('x', 900) FROM generate_series(%d, %d) i`, 20*i+1, 20*i+20),
				fmt.Sprintf(`UPDATE @t SET note = 'short' WHERE id = %d`, 1000+3*i+1),
				fmt.Sprintf(`DELETE FROM @t WHERE id = %d`, 2000+3*i+1))
		}
	})
	err := newRepack(t, db, o).Run(testContext(t))
	if err == nil || !strings.Contains(err.Error(), "extend") {
		t.Errorf("run: %v, want no room to extend a file", err)
	}
	if place == beforeBackfill {
		cli(t, db, 1, "run", "--table", "app.t").says(t, "extend")
	}
	both(t, db.Pool, `INSERT INTO @t SELECT 3 * i, repeat('y', 900) FROM generate_series(301, 310) i`)
	if !v.limited {
		gaveWay(t, db, err)
		if place != beforeBackfill { // when there was nothing to give back yet
			both(t, db.Pool, growSQL)
		}
	}
	alike(t, db, "t")
	v.give(t, db)
	run(t, db, options(t, "app.t", strategy))
	alike(t, db, "t", "growing")
	sameDump(t, db, before)
	noArtefacts(t, db)
}

// givenOnVolume is a database with all that is in it on the volume.
func givenOnVolume(t *testing.T, server *pgserver.Server) *pgtest.Database {
	t.Helper()
	db := pgtest.NewOn(t, server)
	db.Pool.Reset()
	maintenance := pgtest.NewOn(t, server)
	pgtest.WaitFor(t, func() bool {
		_, err := maintenance.Pool.Exec(t.Context(), fmt.Sprintf(`ALTER DATABASE %s SET TABLESPACE small`, db.Name))
		return err == nil
	}, "the database to be moved")
	return db
}

// TestDatabaseFull has the application meet the full disk first. The catalogs, the
// registry and the change log have no room to grow either.
func TestDatabaseFull(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, nil)
	v := givenVolume(t, server)
	if v.limited { // by the size of a file, which is no matter of a database
		return
	}
	for n, place := range []string{midBackfill, beforeSyncSchema} {
		for _, strategy := range turn(n + 1) {
			t.Run(strategy+"/"+place, func(t *testing.T) { databaseFullAt(t, givenOnVolume(t, server), v, strategy, place) })
		}
	}
}

func databaseFullAt(t *testing.T, db *pgtest.Database, v volume, strategy, place string) {
	givenRoomy(t, db, v)
	defer v.give(t, db)
	before := db.Dump(t)
	o := options(t, "app.t", strategy)
	o.Hooks = fullPlace(place, func() {
		v.fill(t, db)
		_, err := db.Pool.Exec(t.Context(), strings.ReplaceAll(growSQL, "@", "app."))
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.DiskFull {
			t.Errorf("the application: %v, want a full disk", err)
		}
	})
	err := newRepack(t, db, o).Run(testContext(t))
	both(t, db.Pool, growSQL)
	gaveWay(t, db, err)
	v.give(t, db)
	run(t, db, options(t, "app.t", strategy))
	alike(t, db, "t", "growing")
	sameDump(t, db, before)
	noArtefacts(t, db)
}

// copied is how many rows a copy has of which something can be given back.
const copied = 8000

// fullPlace is atPlace, with mid-backfill when some of the copy is there.
func fullPlace(place string, do func()) repack.Hooks {
	if place != midBackfill {
		return atPlace(place, do)
	}
	do = once(do)
	return repack.Hooks{AfterChunk: func(_ context.Context, p repack.Progress) error {
		if p.Rows >= copied {
			do()
		}
		return nil
	}}
}

// atPlace calls do once, when a run comes to a place named as in racePlaces.
func atPlace(place string, do func()) repack.Hooks {
	do = once(do)
	return atPlaces(func(name string) {
		if name == place {
			do()
		}
	})
}
