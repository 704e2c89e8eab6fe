package tests

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
	"github.com/repack-go/repack/strategy"
)

// tally counts a run's messages.
type tally struct {
	mu   sync.Mutex
	seen map[string]int
}

func countLogged(o *repack.Options) *tally {
	c := &tally{seen: map[string]int{}}
	onLog(o, func(message string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.seen[message]++
	})
	return c
}

func (c *tally) of(message string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[message]
}

const (
	divided  = "replay batch divided"
	collided = "replay share collided"
)

// givenShares is givenItems for four sessions, with batches that are divided.
// The hook is called when the shadow holds the first 200 items.
func givenShares(t *testing.T, db *pgtest.Database, hook func()) (repack.Options, *tally) {
	t.Helper()
	o := givenItems(t, db, repack.ChangeLog)
	o.BatchSize, o.Jobs = 50_000, 4
	seen := countLogged(&o)
	return atStep(o, repack.StepLoggedKeysRemoved, hook), seen
}

// manyItems makes the log worth dividing.
const manyItems = `INSERT INTO @items SELECT i, 'mail ' || i, '' FROM generate_series(1001, 6000) AS i`

// Addresses are exchanged between rows that are replayed by different sessions:
// each meets what another has not taken away yet, or waits for it.
func TestUniqueValuesMoveBetweenShares(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o, seen := givenShares(t, db, func() {
		both(t, db.Pool, manyItems,
			`UPDATE @items SET email = 'free ' || id WHERE id <= 100`,
			`UPDATE @items SET email = 'mail ' || id - 100 WHERE id BETWEEN 101 AND 200`,
			`UPDATE @items SET email = 'mail ' || id + 100 WHERE id <= 100`)
	})
	run(t, db, o)
	alike(t, db, "items")
	if seen.of(divided) == 0 || seen.of(collided) == 0 {
		t.Errorf("%d batches divided, %d shares collided: nothing was tried", seen.of(divided), seen.of(collided))
	}
	if n := seen.of(lockNotObtained); n > 0 {
		t.Errorf("%d waits of our own sessions for each other are told of", n)
	}
}

// A key that is changed again and again, in every batch, is replayed by one
// session of a batch.
func TestHotKeysInShares(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o, seen := givenShares(t, db, func() {
		for n := range 8 {
			both(t, db.Pool,
				fmt.Sprintf(`UPDATE @items SET note = 'hot %d', email = 'hot %[1]d ' || id WHERE id <= 60`, n),
				`DELETE FROM @items WHERE id <= 20`,
				`INSERT INTO @items SELECT i, 'again ' || i, '' FROM generate_series(1, 10) AS i`,
				`UPDATE @items SET id = -id WHERE abs(id) BETWEEN 21 AND 40`,
				fmt.Sprintf(`
					INSERT INTO @items SELECT i, 'mail ' || i, '' FROM generate_series(%d, %d) AS i`, 1001+n*1000, 2000+n*1000))
		}
		both(t, db.Pool, `DELETE FROM @items WHERE id BETWEEN 41 AND 50`)
	})
	o.BatchSize = 16 * 200
	run(t, db, o)
	alike(t, db, "items")
	if seen.of(divided) < 2 || seen.of(collided) > 0 {
		t.Errorf("%d batches divided, %d shares collided", seen.of(divided), seen.of(collided))
	}
}

// Rows of after a TRUNCATE bear addresses of those before it.
func TestTruncateInShares(t *testing.T) {
	t.Parallel()
	for name, statements := range map[string][]string{
		"before": {
			manyItems,
			`TRUNCATE @items`,
			`INSERT INTO @items VALUES (1, 'mail 3', 'a'), (500, 'mail 4', 'b'), (200, 'mail 200', 'c')`,
		},
		"after": {`TRUNCATE @items`, `INSERT INTO @items VALUES (1, 'mail 3', 'a'), (500, 'mail 4', 'b')`, manyItems},
		"twice": {
			`TRUNCATE @items`,
			manyItems,
			`TRUNCATE @items`,
			manyItems,
			`UPDATE @items SET email = 'mail ' || id - 1000 WHERE id <= 1200`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			o, seen := givenShares(t, db, func() { both(t, db.Pool, statements...) })
			run(t, db, o)
			alike(t, db, "items")
			if seen.of(divided) == 0 {
				t.Error("no batch was divided")
			}
		})
	}
}

// givenWaitingShare starts a run of which one share waits for a row of the shadow.
func givenWaitingShare(t *testing.T, db *pgtest.Database, o repack.Options) (holder pgx.Tx, done <-chan error) {
	t.Helper()
	held := holdBefore(t, db, o, repack.PostSyncUpdate)
	both(t, db.Pool, manyItems, `UPDATE @items SET note = 'new' WHERE id <= 10`)
	holder = begin(t, db.Connect(t), pgx.ReadCommitted)
	mustExec(t, holder, `SELECT FROM `+shadowItems+` WHERE id = 1 FOR UPDATE`)
	held.release()
	return holder, held.done
}

// A lock that one session is not granted in time is tried for again as ever, by
// the batch that takes what the others have left.
func TestShareWaitsInVain(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o, seen := givenShares(t, db, func() {})
	denied := watch(&o, lockNotObtained)
	holder, done := givenWaitingShare(t, db, o)
	awaitLog(t, denied, done)
	if seen.of(collided) != 1 {
		t.Errorf("%d shares had ended without a lock, want 1", seen.of(collided))
	}
	mustExec(t, holder, `ROLLBACK`)
	mustEnd(t, done)
	alike(t, db, "items")
}

// One of the sessions is lost: what it has not replayed, the next run does.
func TestShareTerminated(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o, seen := givenShares(t, db, func() {})
	o.LockTimeout = repack.DefaultLockTimeout
	o.RetryFor = -1 // the run ends with its session
	holder, done := givenWaitingShare(t, db, o)
	waiter := pgtest.WaitBlockedBy(t, db.Pool, pid(holder))
	mustExec(t, db.Pool, `SELECT pg_terminate_backend($1, 10000)`, int32(waiter))
	if err := await(t, done); err == nil {
		t.Error("the run went on without one of its sessions")
	}
	if seen.of(divided) != 1 {
		t.Errorf("%d batches divided, want 1", seen.of(divided))
	}
	mustExec(t, holder, `ROLLBACK`)
	run(t, db, o)
	alike(t, db, "items")
}

// absSQL is an equality of integers by which 5 is -5.
const absSQL = `
CREATE FUNCTION ext.abs_eq(int, int) RETURNS bool IMMUTABLE LANGUAGE sql RETURN pg_catalog.abs($1) = pg_catalog.abs($2);
CREATE FUNCTION ext.abs_lt(int, int) RETURNS bool IMMUTABLE LANGUAGE sql RETURN pg_catalog.abs($1) < pg_catalog.abs($2);
CREATE FUNCTION ext.abs_cmp(int, int) RETURNS int IMMUTABLE
    LANGUAGE sql RETURN pg_catalog.sign(pg_catalog.abs($1) - pg_catalog.abs($2))::int;
CREATE OPERATOR ext.= (LEFTARG = int, RIGHTARG = int, FUNCTION = ext.abs_eq, HASHES);
CREATE OPERATOR ext.< (LEFTARG = int, RIGHTARG = int, FUNCTION = ext.abs_lt);
CREATE OPERATOR CLASS ext.abs_ops FOR TYPE int USING btree AS
    OPERATOR 1 ext.<, OPERATOR 3 ext.=, FUNCTION 1 ext.abs_cmp(int, int);
CREATE FUNCTION ext.abs_hash(int) RETURNS int IMMUTABLE LANGUAGE sql RETURN pg_catalog.hashint4(pg_catalog.abs($1));
CREATE FUNCTION ext.abs_hash(int, bigint) RETURNS bigint IMMUTABLE
    LANGUAGE sql RETURN pg_catalog.hashint4extended(pg_catalog.abs($1), $2);
CREATE OPERATOR CLASS ext.abs_hash_ops FOR TYPE int USING hash AS
    OPERATOR 1 ext.=, FUNCTION 1 ext.abs_hash(int), FUNCTION 2 ext.abs_hash(int, bigint);`

// Only where equal keys have the same hash are they divided by it.
func TestDivisibleKeys(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	givenExtension(t, db, "citext")
	db.Exec(t, absSQL+`
		CREATE COLLATION ext.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE TYPE ext.mood AS ENUM ('sad', 'glad');
		CREATE TYPE ext.pair AS (a int, b text);
		CREATE DOMAIN ext.number AS numeric CHECK (VALUE > 0);
		CREATE DOMAIN ext.loosely AS text COLLATE ext.loose`)
	for i, c := range []struct {
		columns, index string
		a, b           string // two ways to write one key
		want           bool
	}{
		{"a bigint", "a", "1", "1", true},
		{"a uuid", "a", "'00000000-0000-0000-0000-00000000000a'", "'{0000000000000000000000000000000A}'", true},
		{"a numeric", "a", "1.0", "1.000", true},
		{"a ext.number", "a", "1.0", "1.000", true},
		{"a float8", "a", "'-0'", "'0'", true},
		{"a interval", "a", "'1 month'", "'30 days'", true},
		{"a char(5)", "a", "'x'", "'x  '", true},
		{"a varchar(5)", "a", "'x'", "'x'", true},
		{`a text COLLATE "C"`, "a", "'x'", "'x'", true},
		{"a text COLLATE ext.loose", "a", "'alpha'", "'ALPHA'", true},
		{"a text COLLATE ext.loose", `a COLLATE "C"`, "'alpha'", "'ALPHA'", true},
		{"a ext.loosely", "a", "'alpha'", "'ALPHA'", true},
		{`a ext.loosely COLLATE "C"`, "a", "'alpha'", "'alpha'", true},
		{"a ext.citext", "a", "'alpha'", "'ALPHA'", true},
		{"a ext.mood", "a", "'sad'", "'sad'", true},
		{"a int, b ext.mood, c text", "c, a, b", "ROW(1, 'sad', 'x')", "ROW(1, 'sad', 'x')", true},
		{"a int", "a ext.abs_ops", "5", "-5", false},
		{"a text", "a text_pattern_ops", "'x'", "'x'", false},
		{"a name COLLATE ext.loose", "a", "'alpha'", "'ALPHA'", false}, // hashes the bytes
		{"a int[]", "a", "'{1}'", "'{1}'", false},
		{"a int4range", "a", "'[1,3)'", "'[1,2]'", false},
		{"a ext.pair", "a", "'(1,x)'", "'(1,x)'", false},
		{"a cidr", "a", "'10.0.0.0/8'", "'10/8'", false},
		{"a bit(3)", "a", "'101'", "'101'", false}, // has no hash
		{"a int, b bit(3)", "a, b", "ROW(1, '101')", "ROW(1, '101')", false},
	} {
		table := fmt.Sprintf("public.t%d", i)
		db.Exec(t, fmt.Sprintf(`
			CREATE TABLE %[1]s (%[2]s);
			CREATE UNIQUE INDEX t%[4]d_key ON %[1]s (%[3]s)`, table, c.columns, c.index, i))
		key, err := catalog.ReadKey(testContext(t), db.Pool, pgtest.Query[uint32](t, db.Pool, `SELECT $1::regclass::oid`, table), fmt.Sprintf("t%d_key", i))
		if err != nil {
			t.Fatal(err)
		}
		log := catalog.Name{Schema: "public", Name: fmt.Sprintf("log%d", i)}
		link := strategy.Link{Log: log, Key: key}
		got := link.Divisible()
		if got != c.want {
			t.Errorf("(%s) by (%s): divisible is %t, want %t", c.columns, c.index, got, c.want)
		}
		if !got {
			continue
		}
		for _, row := range []string{c.a, c.b} {
			if row[0] != 'R' {
				row = "ROW(" + row + ")"
			}
			db.Exec(t, fmt.Sprintf(`
				ALTER TABLE %[1]s DISABLE TRIGGER ALL;
				DROP INDEX IF EXISTS t%[2]d_key;
				INSERT INTO %[1]s VALUES %[3]s`, table, i, row[3:]))
		}
		columns := []string{}
		for _, k := range key {
			columns = append(columns, catalog.Quote(k.Name))
		}
		db.Exec(t, link.CreateLogSQL()+fmt.Sprintf(`; INSERT INTO %s SELECT %s FROM %s`, log, strings.Join(columns, ", "), table))
		if n := pgtest.Query[int](t, db.Pool, fmt.Sprintf(`
			SELECT count(DISTINCT hash_record_extended(l, 0)) FROM %s l`, log)); n != 1 {
			t.Errorf("(%s): %s and %s have %d hashes", c.columns, c.a, c.b, n)
		}
	}
}

// A key that cannot be divided is replayed as it was.
func TestIndivisibleKey(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	twins(t, db, `CREATE TABLE @bits (a bit varying PRIMARY KEY, v int)`)
	o := options(t, "app.bits", repack.ChangeLog)
	seen := countLogged(&o)
	run(t, db, atStep(o, repack.StepLoggedKeysRemoved, func() {
		both(t, db.Pool, `INSERT INTO @bits SELECT i::bit(20), i FROM generate_series(1, 6000) AS i`,
			`DELETE FROM @bits WHERE v % 7 = 0`)
	}))
	alike(t, db, "bits")
	if n := seen.of(divided); n > 0 {
		t.Errorf("%d batches divided", n)
	}
}

// TestRandomWorkloadInShares has the writers of TestRandomWorkload get so far
// ahead that several sessions catch up with them. With the strategy that goes to the
// end there it goes to the swap and back again here.
func TestRandomWorkloadInShares(t *testing.T) {
	t.Parallel()
	for _, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			underWorkload(t, strategy, randomSeed(t), func(db *pgtest.Database, o repack.Options) {
				o.Jobs, o.BatchSize = 4, 0
				seen := countLogged(&o)
				ahead := beforeStage(o, repack.PostSyncUpdate, func() {
					pgtest.WaitFor(t, func() bool {
						return pgtest.Query[bool](t, db.Pool, `SELECT pg_relation_size('repack_job_1.repack_change_log_1') > 40 * 8192`)
					}, "writers to get ahead")
				})
				if strategy == repack.ChangeLog {
					thereAndBack(t, db, ahead)
				} else {
					run(t, db, ahead)
				}
				if seen.of(divided) == 0 {
					t.Error("no batch was divided")
				}
				t.Logf("%d batches divided, %d shares collided", seen.of(divided), seen.of(collided))
			})
		})
	}
}
