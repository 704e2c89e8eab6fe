package tests

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// oneByOne are options that move foreign keys one by one.
func oneByOne(t *testing.T, table, strategy string) repack.Options {
	o := options(t, table, strategy)
	o.ForeignKeys = repack.ForeignKeysOneByOne
	return o
}

var temporaryKey = regexp.MustCompile(`^repack_\d+_`)

// refusedAlike is bothRefused where the message may name the key that the tool has
// made beside the application's.
func refusedAlike(t *testing.T, conn execer, sql string) {
	t.Helper()
	refusedBy(t, conn, sql, func(constraint string) string { return temporaryKey.ReplaceAllString(constraint, "") })
}

// Whichever table of the family is repacked, every action happens in every phase, also
// while each neighbour has two keys.
func TestKeysOneByOneInEveryPhase(t *testing.T) {
	t.Parallel()
	for i, table := range []string{"app.hub", "app.country", "app.kid_a", "app_other.kid_c"} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			db, strategy := withRegistry.New(t), strategies[i%2]
			twins(t, db, hubSQL)
			before := db.Dump(t)
			round := 1
			write := func() {
				hubRoundBy(t, db, refusedAlike, isolationLevels[round%len(isolationLevels)], round)
				hubEqual(t, db)
				round++
			}
			o := everyStep(oneByOne(t, table, strategy), write)
			runUntil(t, db, o, repack.Swap)
			hubAlike(t, db)
			write()
			revert(t, db, o)
			write()
			hubAlike(t, db)
			sameDump(t, db, before)

			run(t, db, everyStep(oneByOne(t, table, strategy), write))
			write()
			hubAlike(t, db)
			sameDump(t, db, before)
			noArtefacts(t, db)
		})
	}
}

// TestAlteredKeysOneByOne makes columns bigint that refer to integers: every row fits both tables,
// so the keys can be moved one by one.
func TestAlteredKeysOneByOne(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	twins(t, db, hubSQL)
	const columns = `ALTER c TYPE %[1]s, ALTER n TYPE %[1]s, ALTER d TYPE %[1]s, ALTER r TYPE %[1]s, ALTER a TYPE %[1]s`
	db.Exec(t, `ALTER TABLE app.country ALTER id TYPE int; ALTER TABLE app.hub `+fmt.Sprintf(columns, "int"))
	before := db.Dump(t)
	round := 1
	write := func() {
		hubRoundBy(t, db, refusedAlike, isolationLevels[round%len(isolationLevels)], round)
		hubEqual(t, db)
		round++
	}
	altering := func() repack.Options {
		o := everyStep(oneByOne(t, "app.hub", repack.ChangeLog), write)
		o.Alter = []string{fmt.Sprintf(columns, "bigint")}
		return o
	}
	runUntil(t, db, altering(), repack.Swap)
	hubAlike(t, db)
	write()
	revert(t, db, altering())
	write()
	hubAlike(t, db)
	sameDump(t, db, before)

	run(t, db, altering())
	write()
	hubAlike(t, db)
	db.Exec(t, `ALTER TABLE app.country ALTER id TYPE bigint`)
	noArtefacts(t, db)

	// Nothing bounds a key that the application chooses.
	o := oneByOne(t, "app.kid_n", repack.ChangeLog)
	o.Alter = []string{`ALTER hub TYPE text`}
	var refused *repack.RefusedError
	if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &refused) {
		t.Errorf("keys of a table whose values may not fit, one by one: %v", err)
	}
}

// threeWritersSQL is a table between a parent and a child.
const threeWritersSQL = `
CREATE TABLE parent (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
INSERT INTO parent SELECT generate_series(1, 10);
CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, parent int REFERENCES parent);
INSERT INTO t SELECT g, 0, 1 + g % 10 FROM generate_series(1, 1000) g;
CREATE TABLE child (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, t int REFERENCES t);
INSERT INTO child SELECT g, 0, g FROM generate_series(1, 1000) g`

// Three writers, who are never at rest, come to child, table and parent in different
// orders, so that whoever holds the lock of one waits for ever for another. The run
// ends, and no statement of theirs fails or waits for longer than the lock timeout.
func TestThreeWritersInEveryOrder(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, threeWritersSQL)
	before := db.Dump(t)
	ctx, over := testContext(t), make(chan struct{})
	stop := sync.OnceFunc(func() { close(over) })
	defer stop()
	var writers sync.WaitGroup
	var longest atomic.Int64
	var written atomic.Int64
	for w, order := range [][]string{{"child", "parent", "t"}, {"t", "parent", "child"}, {"parent", "t", "child"}} {
		conn := db.Connect(t)
		writers.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
					for _, table := range order {
						began := time.Now()
						_, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %s SET n = n + 1, id = id WHERE id = %d; SELECT pg_sleep(0.02)", table, w+1))
						if err != nil {
							return err
						}
						longest.Store(max(longest.Load(), int64(time.Since(began)-20*time.Millisecond)))
					}
					return nil
				})
				if err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				written.Add(1)
			}
		})
	}
	o := options(t, "t", repack.ChangeLog)
	o.LockTimeout, o.ForeignKeys = repack.DefaultLockTimeout, repack.ForeignKeysAuto
	began := time.Now()
	run(t, db, o)
	took := time.Since(began)
	stop()
	writers.Wait()
	t.Logf("run took %s, %d transactions were written, the longest wait was %s", took, written.Load(), time.Duration(longest.Load()))
	if took > time.Minute {
		t.Errorf("run took %s", took)
	}
	if wait := time.Duration(longest.Load()); wait > o.LockTimeout {
		t.Errorf("a statement waited for %s, longer than the lock timeout of %s", wait, o.LockTimeout)
	}
	if rows := pgtest.Query[int](t, db.Pool, `SELECT sum(n) FROM t`); int64(rows) != written.Load() {
		t.Errorf("%d updates are there, %d were made", rows, written.Load())
	}
	sameDump(t, db, before)
	noArtefacts(t, db)
}

// Whoever inserts a row holds what it refers to, and whoever deletes that waits, in any
// step: as the two rows of it that there are meanwhile are locked in one order, nobody is
// in a deadlock.
func TestChildAndParentOneByOne(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT generate_series(1, 1000);
		CREATE TABLE child (id serial PRIMARY KEY, t int CONSTRAINT child_t REFERENCES t)`)
	o := oneByOne(t, "t", repack.ChangeLog)
	seen, row := map[string]bool{}, 0
	o.Hooks.AfterStep = oneAtATime(func(_ context.Context, step string) error {
		if seen[step] || !strings.HasPrefix(step, "keys:") && step != repack.StepExchanged {
			return nil
		}
		seen[step] = true
		row++
		child, parent := begin(t, db.Connect(t), pgx.ReadCommitted), begin(t, db.Connect(t), pgx.ReadCommitted)
		mustExec(t, child, fmt.Sprintf(`INSERT INTO child (t) VALUES (%d)`, row))
		deleted := startExec(t, parent, fmt.Sprintf(`DELETE FROM t WHERE id = %d`, row))
		if !blockedOrDone(t, db, deleted, pid(parent)) {
			t.Errorf("%s: a row is deleted that is just being referred to: %v", step, <-deleted)
		}
		mustExec(t, child, fmt.Sprintf(`UPDATE t SET n = 1 WHERE id = %d`, row))
		commit(t, child)
		var pgErr *pgconn.PgError
		if err := <-deleted; !errors.As(err, &pgErr) || pgErr.Code != "23503" || pgErr.ConstraintName != "child_t" {
			t.Errorf("%s: DELETE: %v, want a violation of child_t", step, err)
		}
		if err := parent.Rollback(testContext(t)); err != nil {
			t.Errorf("roll back: %v", err)
		}
		return nil
	})
	run(t, db, o)
	if row < 5 {
		t.Errorf("tried in %d steps only: %v", row, seen)
	}
}

// Of very many neighbours some are written to all the time, and one is being read for
// long: all others are handed over, and it is when its reader is done.
func TestManyNeighboursOneIsRead(t *testing.T) {
	t.Parallel()
	neighbours, written := 60, 5
	if thorough() {
		neighbours, written = 500, 20
	}
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
		INSERT INTO t SELECT generate_series(1, 1000)`)
	for first := 1; first <= neighbours; first += 50 { // in one transaction there would be too many locks
		db.Exec(t, fmt.Sprintf(`DO $$ BEGIN FOR n IN %d..%d LOOP
			EXECUTE format('CREATE TABLE child_%%s (id serial PRIMARY KEY, t int CONSTRAINT child_%%s_t REFERENCES t)', n, n);
		END LOOP; END $$`, first, min(first+49, neighbours)))
	}
	before := db.Dump(t)
	over := make(chan struct{})
	stop := sync.OnceFunc(func() { close(over) })
	defer stop()
	var writers sync.WaitGroup
	for w := range 2 {
		conn := db.Connect(t)
		writers.Go(func() {
			for n := w; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				sql := fmt.Sprintf(`
					INSERT INTO child_%d (t) VALUES (%d);
					UPDATE t SET n = n + 1 WHERE id = %d`, 1+n%written, 1+n%1000, 1+n%500+500*w)
				if _, err := conn.Exec(testContext(t), sql); err != nil {
					t.Errorf("writer: %v", err)
					return
				}
			}
		})
	}
	o := oneByOne(t, "t", repack.ChangeLog)
	o.LockTimeout = repack.DefaultLockTimeout
	if thorough() { // more than that the keys would take together
		o.ForeignKeys = repack.ForeignKeysAuto
	}
	last := fmt.Sprintf("child_%d", neighbours)
	reader := begin(t, db.Connect(t), pgx.ReadCommitted)
	mustExec(t, reader, "SELECT * FROM "+last)
	waiting := watch(&o, "keys of neighbours have still to be moved")
	done := startRun(t, db, o)
	awaitLog(t, waiting, done)
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[int](t, db.Pool, `
			SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conname LIKE 'repack%'`) == 1
	}, "all keys but one to be handed over")
	if left := pgtest.Query[string](t, db.Pool, `
		SELECT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f' AND conname LIKE 'repack%'`); left != last {
		t.Errorf("the key that is left is one of %s, want %s", left, last)
	}
	commit(t, reader)
	mustEnd(t, done)
	stop()
	writers.Wait()
	sameDump(t, db, before)
	noArtefacts(t, db)
}

// The exchange locks no neighbour, and sends as many statements whatever their number.
func TestExchangeOneByOneLocksNoNeighbour(t *testing.T) {
	t.Parallel()
	sent := map[int]int{}
	for _, neighbours := range []int{1, 30} {
		db := withRegistry.New(t)
		db.Exec(t, fmt.Sprintf(`
			CREATE TABLE parent (id int PRIMARY KEY);
			CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES parent);
			DO $$ BEGIN
			    FOR n IN 1..%d LOOP EXECUTE format('CREATE TABLE child_%%s (t int REFERENCES t)', n); END LOOP;
			END $$`, neighbours))
		trace := &exchangeTrace{messages: map[*pgx.Conn]int{}}
		config := db.Config(t)
		config.Tracer = trace
		o := oneByOne(t, "t", repack.ChangeLog)
		joined := 0
		var reader pgx.Tx
		o.Hooks.AfterStep = oneAtATime(func(_ context.Context, step string) error {
			switch step {
			case repack.StepKeyValidated:
				if joined++; joined == neighbours+1 { // whoever holds a neighbour is in nobody's way
					reader = begin(t, db.Connect(t), pgx.ReadCommitted)
					mustExec(t, reader, `LOCK TABLE child_1, parent IN ROW EXCLUSIVE MODE`)
				}
			case repack.StepExchanged:
				commit(t, reader)
			}
			return nil
		})
		r, err := repack.New(config, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Run(testContext(t)); err != nil {
			t.Fatalf("run: %v", err)
		}
		sent[neighbours] = trace.exchange
	}
	if sent[1] == 0 || sent[1] != sent[30] {
		t.Errorf("the exchange sent %d messages with 1 neighbour and %d with 30, want as many", sent[1], sent[30])
	}
}

// exchangeTrace counts the messages of a transaction from the one that locks table t on.
type exchangeTrace struct {
	mu       sync.Mutex
	messages map[*pgx.Conn]int // of a transaction that has locked t
	exchange int
}

// TraceQueryStart counts what is sent.
func (c *exchangeTrace) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, locked := c.messages[conn]
	switch {
	case data.SQL == "commit":
		if locked && n > c.exchange {
			c.exchange = n
		}
		delete(c.messages, conn)
	case data.SQL == "rollback":
		delete(c.messages, conn)
	case locked, strings.Contains(data.SQL, `LOCK TABLE ONLY "public"."t" IN ACCESS EXCLUSIVE`):
		c.messages[conn] = n + 1
	}
	return ctx
}

// TraceQueryEnd does nothing.
func (c *exchangeTrace) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
