package tests

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// racedSQL is a table with foreign keys both ways and a deferrable constraint;
// each operation below has rows of its own in it.
const racedSQL = `
CREATE TABLE @parent (id int PRIMARY KEY);
INSERT INTO @parent SELECT generate_series(1, 20);
CREATE TABLE @t (
    id     int  PRIMARY KEY,
    email  text UNIQUE,
    pos    int  CONSTRAINT t_pos_key UNIQUE DEFERRABLE INITIALLY DEFERRED,
    parent int  REFERENCES @parent ON UPDATE CASCADE ON DELETE CASCADE,
    note   text NOT NULL
) WITH (fillfactor = 20);
INSERT INTO @t
SELECT i, 'e' || i, i, CASE WHEN i BETWEEN 111 AND 115 THEN 7 WHEN i BETWEEN 116 AND 119 THEN 8 ELSE 1 END, 'as it was'
FROM   generate_series(1, 200) AS i;
CREATE INDEX ON @t (parent);
CREATE TABLE @child (id int PRIMARY KEY, t int NOT NULL REFERENCES @t ON UPDATE CASCADE ON DELETE CASCADE);
CREATE INDEX ON @child (t);
INSERT INTO @child SELECT i, i FROM generate_series(121, 130) AS i`

// racer is an operation of the application, as statements for a schema and its
// twin.
type racer struct{ name, sql string }

var racers = []racer{
	{"insert", `INSERT INTO @t VALUES (1001, 'new', 1001, 3, 'inserted')`},
	{"update", `UPDATE @t SET note = 'updated' WHERE id BETWEEN 11 AND 13`},
	{"key update", `UPDATE @t SET id = id + 5000 WHERE id IN (21, 22)`},
	{"delete", `DELETE FROM @t WHERE id IN (31, 32)`},
	{"delete and insert again", `DELETE FROM @t WHERE id = 41; INSERT INTO @t VALUES (41, 'e41', 41, 2, 'again')`},
	{
		"upsert",
		`
			INSERT INTO @t
			VALUES (51, 'up', 51, 1, ''), (1051, 'sert', 1051, 1, 'upserted')
			ON CONFLICT (id) DO UPDATE SET note = 'upserted'`,
	},
	{"deferred swap of unique values", `UPDATE @t SET pos = 62 WHERE id = 61; UPDATE @t SET pos = 61 WHERE id = 62`},
	{"unique value handed over", `UPDATE @t SET email = NULL WHERE id = 71; UPDATE @t SET email = 'e71' WHERE id = 72`},
	{"set-wise update", `UPDATE @t SET pos = 170 - pos, note = 'moved' WHERE id BETWEEN 81 AND 89`},
	{"copy", copyIn},
	{
		"savepoint",
		`
			UPDATE @t SET note = 'kept' WHERE id = 101;
			SAVEPOINT part;
			UPDATE @t SET note = 'lost' WHERE id = 102;
			DELETE FROM @t WHERE id = 103;
			INSERT INTO @t VALUES (1101, 'lost', 1101, 1, 'lost');
			ROLLBACK TO SAVEPOINT part;
			UPDATE @t SET note = 'kept' WHERE id = 104`,
	},
	{"cascade from a parent", `DELETE FROM @parent WHERE id = 7; UPDATE @parent SET id = 108 WHERE id = 8`},
	{"cascade to children", `DELETE FROM @t WHERE id = 121; UPDATE @t SET id = 5122 WHERE id = 122`},
	{"child", `INSERT INTO @child VALUES (900, 131)`},
	{
		"parent, row and child",
		`
			INSERT INTO @parent VALUES (30);
			INSERT INTO @t VALUES (1140, 'e1140', 1140, 30, 'fresh');
			INSERT INTO @child VALUES (901, 1140)`,
	},
}

// copyIn stands for rows that come by COPY.
const copyIn = "COPY @t FROM STDIN"

// emptying keeps everybody else out, so it races alone.
var emptying = racer{"truncate", `
TRUNCATE @t CASCADE;
INSERT INTO @t VALUES (1, 'e2', 3, 1, 'after'), (500, 'e4', 4, 2, 'after');
INSERT INTO @child VALUES (1, 500)`}

// racePlaces are the places of a run in their order. A step of the tool is what
// lies between a place and the next.
var racePlaces = []string{
	beforeSetup, beforeBackfill, midBackfill, beforeSyncSchema, repack.StepLoggedKeysRemoved,
	repack.StepIndexBuilt, beforePostSyncUpdate, repack.StepCaughtUp, beforeSwap,
	repack.StepWritingThrough, repack.StepDrained, repack.StepExchanged, beforeCleanUp, repack.StepCaptureEnded,
}

// The places of a run that are no steps, as atPlaces and atEachPlace call them.
const (
	beforePreValidate    = "before " + string(repack.PreValidate)
	beforeSetup          = "before " + string(repack.Setup)
	afterSetup           = "after " + string(repack.Setup)
	beforeBackfill       = "before " + string(repack.Backfill)
	midBackfill          = "mid-backfill" // after a chunk
	beforeSyncSchema     = "before " + string(repack.SyncSchema)
	beforePostSyncUpdate = "before " + string(repack.PostSyncUpdate)
	beforeSwap           = "before " + string(repack.Swap)
	beforeCleanUp        = "before " + string(repack.CleanUp)
	afterCleanUp         = "after " + string(repack.CleanUp)
)

// atPlaces are hooks that call pass at each of racePlaces.
func atPlaces(pass func(place string)) repack.Hooks {
	return repack.Hooks{
		BeforeStage: func(_ context.Context, s repack.Stage) error { pass("before " + string(s)); return nil },
		AfterStep:   func(_ context.Context, step string) error { pass(step); return nil },
		AfterChunk:  func(context.Context, repack.Progress) error { pass(midBackfill); return nil },
	}
}

// raceOrder says what of a transaction comes before a step, and what after it.
type raceOrder string

const (
	across   raceOrder = "statement before, commit after" // of the step
	snapshot raceOrder = "snapshot before, statement after"
	prepared raceOrder = "prepared before, commit after"
	lasting  raceOrder = "snapshot before, statement at the end" // of the run
)

var raceOrders = []raceOrder{across, snapshot, prepared, lasting}

// interleaving is one way in which transactions and a step of a run meet.
type interleaving struct {
	strategy, place string
	isolation       pgx.TxIsoLevel
	order           raceOrder
	racers          []racer // each in a transaction of its own
}

func (i interleaving) String() string {
	names := "all at once"
	if len(i.racers) == 1 {
		names = i.racers[0].name
	}
	return fmt.Sprintf("%s/%s/%s/%s/%s", i.strategy, i.place, i.isolation, i.order, names)
}

// race is an interleaving under way.
type race struct {
	interleaving
	t    *testing.T
	db   *pgtest.Database
	ctx  context.Context
	mu   sync.Mutex
	open []pgx.Tx
	gids []string
	ran  bool
}

// run repacks; the transactions are opened when the run comes to the place, and
// end when it comes to the next one, or says that it cannot.
func (i interleaving) run(t *testing.T) {
	t.Helper()
	db := withRegistry.New(t)
	twins(t, db, racedSQL)
	r := &race{interleaving: i, t: t, db: db, ctx: testContext(t)}
	for range i.racers {
		r.open = append(r.open, begin(t, db.Connect(t), i.isolation))
	}
	o := options(t, "app.t", i.strategy)
	o.Jobs, o.BatchSize, o.LockTimeout, o.LockRetries = 1, 1, 100*time.Millisecond, 20
	onLog(&o, r.note)
	o.Hooks = atPlaces(r.pass)
	if err := newRepack(t, db, o).Run(r.ctx); err != nil {
		t.Errorf("run: %v", err)
	}
	r.finish()
	if !r.ran {
		t.Errorf("the run never came to %q", i.place)
	}
	alike(t, db, "t", "parent", "child")
	noArtefacts(t, db)
}

// pass is called by the run at each of its places.
func (r *race) pass(place string) {
	switch {
	case place == r.place && !r.ran:
		r.begin()
	case place != r.place && r.ran && r.order != lasting:
		r.finish()
	}
}

func (r *race) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ran = true
	for n, tx := range r.open {
		if r.order == snapshot || r.order == lasting {
			r.exec(tx, `SELECT 1`)
			continue
		}
		r.write(tx, r.racers[n])
		if r.order == prepared {
			r.gids = append(r.gids, fmt.Sprintf("%s %d", r.db.Name, n))
			r.exec(tx, fmt.Sprintf(`PREPARE TRANSACTION '%s'`, r.gids[n]))
		}
	}
	// The run waits longer for a TRUNCATE than it takes to say so.
	if r.racers[0] == emptying && r.order != prepared {
		go r.finishWhenBlocking(pid(r.open[0]))
	}
}

// finish ends the transactions, once. None may fail.
func (r *race) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	open := r.open
	r.open = nil
	for n, tx := range open {
		if !r.ran {
			return
		}
		if r.order == snapshot || r.order == lasting {
			r.read(tx)
			r.write(tx, r.racers[n])
		}
		if r.order == prepared {
			r.exec(r.db.Pool, fmt.Sprintf(`COMMIT PREPARED '%s'`, r.gids[n]))
		} else if err := tx.Commit(r.ctx); err != nil {
			r.t.Errorf("%s: the application noticed at COMMIT: %v", r.racers[n].name, err)
		}
		tried.writes.Add(1)
	}
}

const blocksRepackSQL = `
SELECT EXISTS (
    SELECT FROM pg_stat_activity
    WHERE  $1 = ANY (pg_blocking_pids(pid)) AND application_name LIKE 'repack %')`

func (r *race) finishWhenBlocking(pid uint32) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for r.ctx.Err() == nil {
		<-ticker.C
		var blocks bool
		if err := r.db.Pool.QueryRow(r.ctx, blocksRepackSQL, int32(pid)).Scan(&blocks); err != nil {
			return // the test is over
		}
		if blocks {
			r.finish()
			return
		}
	}
}

func (r *race) write(tx pgx.Tx, what racer) {
	for _, sql := range twinned(what.sql) {
		if what.sql == copyIn {
			_, err := tx.Conn().PgConn().CopyFrom(r.ctx, strings.NewReader("1091\tc1\t1091\t1\tcopied\n1092\tc2\t1092\t1\tcopied\n"), sql)
			if err != nil {
				r.t.Errorf("%s: the application noticed: %v", what.name, err)
			}
			continue
		}
		r.exec(tx, sql)
	}
}

// read compares the table with its twin as the transaction sees them: they are
// written together, and so equal in every snapshot.
func (r *race) read(tx pgx.Tx) {
	for _, table := range []string{"t", "parent", "child"} {
		var differ int64
		if err := tx.QueryRow(r.ctx, fmt.Sprintf(differsSQL, table)).Scan(&differ); err != nil || differ > 0 {
			r.t.Errorf("a transaction sees %d rows of %s other than it should (%v)", differ, table, err)
		}
	}
}

func (r *race) exec(conn execer, sql string) {
	if _, err := conn.Exec(r.ctx, sql); err != nil {
		r.t.Errorf("%s: the application noticed: %v", sql, err)
	}
}

// note ends the transactions when the run says that it cannot go on because of
// them: it has given way by then, and will try again.
func (r *race) note(message string) {
	if slices.Contains([]string{lockNotObtained, awaitingSnapshots}, message) {
		r.finish()
	}
}

// sampleOfRaces has all operations meet every step, at once where they do not
// fail each other, and each of them some steps alone: a replay that falls back to single
// rows, as it does for all of them at once, would hide what it does to a batch. With one
// strategy they write before the step and commit after it, with the other they read before
// it and write after it; from one step to the next the strategies change places.
func sampleOfRaces() []interleaving {
	var sample []interleaving
	for s, strategy := range strategies {
		for p, place := range racePlaces {
			alone := racers[(p+s*len(racers)/2)%len(racers) : (p+s*len(racers)/2)%len(racers)+1]
			sample = append(sample, interleaving{strategy, place, pgx.Serializable, raceOrders[p%2], alone})
			if slices.Contains(turn(p), strategy) {
				sample = append(sample, interleaving{strategy, place, pgx.ReadCommitted, across, racers})
			}
			if slices.Contains(turn(p+1), strategy) {
				sample = append(sample, interleaving{strategy, place, pgx.RepeatableRead, snapshot, racers})
			}
			switch p % 4 {
			case s:
				sample = append(sample, interleaving{strategy, place, pgx.ReadCommitted, prepared, racers})
			case s + 1:
				sample = append(sample, interleaving{strategy, place, pgx.RepeatableRead, lasting, racers})
			case s + 2:
				sample = append(sample, interleaving{strategy, place, pgx.ReadCommitted, across, []racer{emptying}})
			}
		}
	}
	return sample
}

// TestRaces has transactions of the application, open while the run takes a step,
// do everything an application does; their twin, which the tool never sees, is
// what the table is compared with. `make torture` tries all pairs of a step and
// an operation, one by one.
func TestRaces(t *testing.T) {
	t.Parallel()
	for _, i := range sampleOfRaces() {
		t.Run(i.String(), func(t *testing.T) {
			t.Parallel()
			i.run(t)
		})
	}
}

func interleavings(strategy string) []trial {
	var trials []trial
	for _, place := range racePlaces {
		for _, isolation := range isolationLevels {
			for _, order := range raceOrders {
				for _, what := range append(slices.Clone(racers), emptying) {
					if what == emptying && order == prepared {
						continue // nobody could read the table, nor say that it cannot
					}
					i := interleaving{strategy, place, isolation, order, []racer{what}}
					trials = append(trials, trial{"interleavings", i.String(), func(t *testing.T, _ uint64) { i.run(t) }})
				}
			}
		}
	}
	return trials
}
