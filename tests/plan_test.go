package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// plannedSQL is a table with something of everything.
const plannedSQL = `
CREATE SCHEMA app;
CREATE SCHEMA "Other Schema";
CREATE TABLE app.customer (id bigint PRIMARY KEY, name text);
INSERT INTO app.customer SELECT i, 'c' FROM generate_series(1, 20) AS i;
CREATE TABLE app.region (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE app.region_low PARTITION OF app.region FOR VALUES FROM (0) TO (10);
CREATE TABLE app.region_high PARTITION OF app.region FOR VALUES FROM (10) TO (100);
INSERT INTO app.region SELECT generate_series(0, 20);
CREATE TABLE app.orders (
    id       bigint GENERATED ALWAYS AS IDENTITY (START WITH 5),
    number   serial,
    customer bigint REFERENCES app.customer ON DELETE CASCADE,
    region   int REFERENCES app.region,
    parent   bigint,
    during   int4range,
    note     text NOT NULL DEFAULT 'it''s new' COLLATE "C",
    length   int GENERATED ALWAYS AS (octet_length(note)) STORED,
    CONSTRAINT orders_pkey PRIMARY KEY (id),
    CONSTRAINT orders_during_excl EXCLUDE USING gist (during WITH &&) DEFERRABLE,
    CONSTRAINT orders_number_key UNIQUE (number) DEFERRABLE,
    CHECK (note <> '')
) WITH (fillfactor = 70, toast.autovacuum_enabled = off);
ALTER TABLE app.orders ADD FOREIGN KEY (parent) REFERENCES app.orders ON DELETE SET NULL;
INSERT INTO app.orders (customer, region, during) SELECT i, i, int4range(i, i + 1) FROM generate_series(1, 20) AS i;
ALTER TABLE app.orders ADD CONSTRAINT short CHECK (length(note) < 100) NOT VALID;
ALTER TABLE app.orders ADD CONSTRAINT elsewhere FOREIGN KEY (customer) REFERENCES app.customer NOT VALID;
CREATE INDEX orders_note ON app.orders (lower(note) DESC) WHERE note <> ' ON ';
ALTER INDEX app.orders_note ALTER COLUMN 1 SET STATISTICS 50;
ALTER TABLE app.orders CLUSTER ON orders_pkey;
ALTER TABLE app.orders REPLICA IDENTITY USING INDEX orders_pkey;
CREATE STATISTICS "Other Schema".orders_stat (ndistinct) ON customer, region FROM app.orders;
CREATE TABLE "Other Schema".line (id bigint PRIMARY KEY, "order" bigint REFERENCES app.orders ON DELETE CASCADE);
INSERT INTO "Other Schema".line VALUES (1, 5), (2, 6);
CREATE VIEW app.recent AS SELECT * FROM app.orders;
CREATE VIEW app.recent_notes AS SELECT note FROM app.recent;
CREATE RULE copy AS ON UPDATE TO app.customer WHERE new.id < 0 DO ALSO INSERT INTO app.orders (customer) VALUES (new.id);
CREATE TABLE app.guarded (id bigint);
ALTER TABLE app.guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY "only ON orders" ON app.guarded USING (id IN (SELECT id FROM app.orders));
CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touch BEFORE UPDATE ON app.orders FOR EACH ROW EXECUTE FUNCTION app.f();
ALTER TABLE app.orders ENABLE REPLICA TRIGGER touch;
CREATE RULE nothing AS ON DELETE TO app.orders WHERE old.id < 0 DO INSTEAD NOTHING;
CREATE POLICY everyone ON app.orders FOR SELECT USING (true);
CREATE FUNCTION app.next_order(n int) RETURNS SETOF app.orders LANGUAGE plpgsql AS 'BEGIN RETURN QUERY SELECT * FROM app.orders LIMIT n; END';
CREATE FUNCTION app.title(app.orders) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1.note';
REVOKE EXECUTE ON FUNCTION app.title FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.title TO pg_read_all_data;
CREATE FUNCTION app.sum_of(bigint, app.orders) RETURNS bigint LANGUAGE sql AS 'SELECT $1 + $2.id';
CREATE AGGREGATE app.sum_of(app.orders) (SFUNC = app.sum_of, STYPE = bigint, INITCOND = '0');
CREATE CAST (app.orders AS text) WITH FUNCTION app.title(app.orders);
CREATE VIEW app.titles AS SELECT app.title(o) FROM app.orders o;
CREATE TABLE app.untitled (note text DEFAULT app.title(NULL), n int);
CREATE POLICY titled ON app.orders FOR UPDATE USING (app.title(orders) <> '');
CREATE PUBLICATION planned FOR TABLE app.orders;
GRANT SELECT, UPDATE (note) ON app.orders TO pg_read_all_data WITH GRANT OPTION;
GRANT USAGE ON SEQUENCE app.orders_id_seq TO pg_read_all_data;
COMMENT ON TABLE app.orders IS 'what they want';
COMMENT ON COLUMN app.orders.note IS 'free';
COMMENT ON CONSTRAINT elsewhere ON app.orders IS 'a key';
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO pg_monitor;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON SEQUENCES TO pg_monitor;
ANALYZE`

// givenPlanned makes app.orders; its owner is another role than the runner.
func givenPlanned(t *testing.T, db *pgtest.Database) {
	t.Helper()
	db.Exec(t, plannedSQL)
	db.Exec(t, fmt.Sprintf(`GRANT ALL ON SCHEMA app TO %[1]s; ALTER TABLE app.orders OWNER TO %[1]s`, db.Role(t)))
	if db.Version() >= 14 {
		db.Exec(t, `CREATE FUNCTION app.count_orders() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM app.orders; END`)
	}
}

func planOf(t *testing.T, db *pgtest.Database, o repack.Options) *repack.Plan {
	t.Helper()
	plan, err := newRepack(t, db, o).Plan(testContext(t))
	if err != nil {
		t.Fatalf("plan: %v", err)
	}
	return plan
}

// relationsSQL counts what any statement that creates something would change.
const relationsSQL = `
SELECT (SELECT count(*) FROM pg_class) + (SELECT count(*) FROM pg_namespace) + (SELECT count(*) FROM pg_proc)
     + (SELECT count(*) FROM pg_trigger) + (SELECT count(*) FROM pg_depend) + (SELECT count(*) FROM pg_type)`

func TestPlanChangesNothing(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		givenPlanned(t, db)
		before, count := db.Dump(t), pgtest.Query[int64](t, db.Pool, relationsSQL)
		// It waits for nobody but those who keep readers out.
		holder := begin(t, db.Connect(t), pgx.ReadCommitted)
		mustExec(t, holder, `LOCK TABLE app.orders, app.customer, app.guarded, "Other Schema".line, app.recent IN EXCLUSIVE MODE`)
		plan := planOf(t, db, options(t, "app.orders", strategy))
		if len(plan.Stages) != 7 {
			t.Errorf("%d stages planned, want all seven", len(plan.Stages))
		}
		if after := pgtest.Query[int64](t, db.Pool, relationsSQL); after != count {
			t.Errorf("%d objects, before the plan %d", after, count)
		}
		commit(t, holder)
		sameDump(t, db, before)
	})
}

// The owner needs no more rights for a plan than for a run; on a session that
// may not write he has all he needs.
func TestPlanAsReadOnlyOwner(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	owner := db.Role(t)
	db.Exec(t, fmt.Sprintf(`CREATE SCHEMA app AUTHORIZATION %[1]s; CREATE TABLE app.t (id int PRIMARY KEY);
		ALTER TABLE app.t OWNER TO %[1]s; ALTER ROLE %[1]s SET default_transaction_read_only = on`, owner))
	config := db.Config(t)
	config.User = owner
	r, err := repack.New(config, options(t, "app.t", repack.ChangeLog))
	if err != nil {
		t.Fatal(err)
	}
	var refused *repack.RefusedError
	grant := fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s;", db.Name, owner)
	plan, err := r.Plan(testContext(t))
	if !errors.As(err, &refused) || len(plan.Refused) == 0 || plan.Refused[0].Remedy != grant {
		t.Fatalf("plan without CREATE: %v, want it refused with %q", err, grant)
	}
	db.Exec(t, grant)
	if plan, err = r.Plan(testContext(t)); err != nil || len(plan.Stages) != 7 {
		t.Fatalf("plan: %v", err)
	}
}

func TestPlanRefusesAsRun(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE TABLE public.t (id int); CREATE MATERIALIZED VIEW public.m AS SELECT * FROM public.t`)
	planned := cli(t, db, 3, "plan", "--table", "t")
	dry := cli(t, db, 3, "run", "--dry-run", "--table", "t")
	ran := cli(t, db, 3, "run", "--table", "t", "--log-level", "error")
	for _, p := range []*process{planned, dry} {
		if p.stderr.String() != ran.stderr.String() || p.stdout.Len() > 0 {
			t.Errorf("plan says\n%s%srun says\n%s", p.stdout.String(), p.stderr.String(), ran.stderr.String())
		}
	}
	var plan repack.Plan
	asJSON := cli(t, db, 3, "plan", "--table", "t", "--format", "json")
	if err := json.Unmarshal(asJSON.stdout.Bytes(), &plan); err != nil {
		t.Fatal(err)
	}
	if len(plan.Refused) != 2 || plan.Refused[0].Object != "materialized view public.m" {
		t.Errorf("refused: %+v", plan.Refused)
	}
	cli(t, db, 2, "plan")
	cli(t, db, 2, "plan", "--table", "t", "--format", "yaml")
	cli(t, db, 3, "plan", "--table", "missing")
}

// statements is a tracer that notes what a run sends, except transactions that it
// rolls back, such as the trial of pre_validate: they do nothing that a plan could show.
type statements struct {
	mu   sync.Mutex
	sql  []string
	open map[*pgx.Conn][]string // of transactions that have not ended
}

func (s *statements) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, inTransaction := s.open[conn]
	switch {
	case strings.HasPrefix(data.SQL, "begin"):
		s.open[conn] = strings.Split(data.SQL, ";\n")[1:] // the settings that it begins with
	case data.SQL == "rollback":
		delete(s.open, conn)
	case data.SQL == "commit":
		s.sql = append(s.sql, s.open[conn]...)
		delete(s.open, conn)
	case inTransaction:
		s.open[conn] = append(s.open[conn], data.SQL)
	default:
		s.sql = append(s.sql, data.SQL)
	}
	return ctx
}

func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

var (
	boundPattern = regexp.MustCompile(`^SET LOCAL lock_timeout = \d+;\n(SET LOCAL statement_timeout = \d+;\n)?`)
	separated    = regexp.MustCompile(`^\s*;+\s*`)
	xidPattern   = regexp.MustCompile(`''\d+''::xid8`)
	// What changes nothing that outlives the session or transaction, only the
	// registry, or nothing.
	unplannedPattern = regexp.MustCompile(`(?is)^(savepoint sp_|release savepoint sp_|select|set (session|search_path|client_connection|transaction|default|statement_timeout)|` +
		`set local (lock_timeout|synchronous_commit|statement_timeout|enable_hashjoin|enable_mergejoin|max_parallel_workers_per_gather|plan_cache_mode)|reset all|with (held|me|waited|own|locks|recursive\s+(part|key|repack_))|;?$)|repack_registry`)
)

// numbered gives a plan's statement the number of the first job.
func numbered(sql string) string {
	return strings.NewReplacer("repack_job_N", "repack_job_1", "repack_change_log_N", "repack_change_log_1",
		"repack_capture_N", "repack_capture_1", "repack_N_", "repack_1_", "for job N", "for job 1").Replace(sql)
}

// planned lists the statements of a plan as the first job would send them.
func planned(plan *repack.Plan) []string {
	var sql []string
	for _, stage := range plan.Stages {
		for _, step := range stage.Steps {
			for _, s := range step.SQL {
				sql = append(sql, numbered(s))
			}
		}
	}
	return sql
}

// sent lists what a run has sent in the same form. Statements sent together are
// taken apart where the plan has them one by one.
func (s *statements) sent(plan []string) []string {
	var sql []string
	for _, text := range s.sql {
		text = boundPattern.ReplaceAllString(text, "")
		text = xidPattern.ReplaceAllString(strings.TrimSpace(text), "''N''::xid8")
		for {
			i := slices.IndexFunc(plan, func(p string) bool {
				return separated.MatchString(strings.TrimPrefix(text, p)) && strings.HasPrefix(text, p)
			})
			if i < 0 {
				break
			}
			sql, text = append(sql, plan[i]), separated.ReplaceAllString(text[len(plan[i]):], "")
		}
		sql = append(sql, strings.TrimRight(text, ";"))
	}
	return sql
}

// planEquals compares a plan with what a run has sent. Statements with one of the
// words in them it had no need of.
func planEquals(t *testing.T, plan []string, run *statements, needless ...string) {
	t.Helper()
	sent := run.sent(plan)
	for _, sql := range plan {
		has := func(words string) bool { return strings.Contains(sql, words) }
		if !slices.Contains(sent, sql) && !slices.ContainsFunc(needless, has) {
			t.Errorf("planned, not sent:\n%s", sql)
		}
	}
	for _, sql := range sent {
		if !slices.Contains(plan, sql) && !unplannedPattern.MatchString(sql) {
			t.Errorf("sent, not planned:\n%s", sql)
		}
	}
}

// What the plan shows is what a run sends, and the other way round.
func TestPlanIsWhatRunSends(t *testing.T) {
	t.Parallel()
	for n, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("keep old %t", keep), func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				givenPlanned(t, db)
				o := options(t, "app.orders", strategy)
				o.KeepOld, o.LockTimeout = keep, queuing // there is much to exchange
				if keep {
					o.ForeignKeys = repack.ForeignKeysOneByOne
				}
				plan := planned(planOf(t, db, o))
				planEquals(t, plan, traced(t, db, o))
			})
		})
	}
}

// traced runs with a tracer. A transaction with an old snapshot writes after
// the switch to write-through, so that there is something to replay.
func traced(t *testing.T, db *pgtest.Database, o repack.Options) *statements {
	t.Helper()
	trace := &statements{open: map[*pgx.Conn][]string{}}
	config := db.Config(t)
	config.Tracer = trace
	writer := db.Connect(t)
	var tx pgx.Tx
	o.Hooks.AfterStep = func(_ context.Context, step string) error {
		switch step {
		case repack.StepCaughtUp:
			tx = begin(t, writer, pgx.RepeatableRead)
			mustExec(t, tx, `SELECT 1`)
		case repack.StepWritingThrough:
			mustExec(t, tx, `UPDATE app.orders SET note = 'late' WHERE id = 7`)
			commit(t, tx)
		}
		return nil
	}
	r, err := repack.New(config, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(testContext(t)); err != nil {
		t.Fatalf("run: %v", err)
	}
	return trace
}

// A plan carried out by hand, statement by statement, is a repack, and each of
// its steps takes the locks it names.
func TestPlanByHandIsARepack(t *testing.T) {
	t.Parallel()
	for i, ways := range []repack.ForeignKeys{repack.ForeignKeysTogether, repack.ForeignKeysOneByOne} {
		t.Run(string(ways), func(t *testing.T) {
			t.Parallel()
			for _, strategy := range turn(i) {
				planByHand(t, strategy, ways)
			}
		})
	}
}

func planByHand(t *testing.T, strategy string, keys repack.ForeignKeys) {
	t.Helper()
	t.Run(strategy, func(t *testing.T) {
		db := pgtest.New(t)
		givenPlanned(t, db)
		before, rows := db.Dump(t), db.Checksum(t, "app.orders")
		oid := pgtest.Query[uint32](t, db.Pool, `SELECT 'app.orders'::regclass::oid`)
		o := options(t, "app.orders", strategy)
		o.ForeignKeys = keys
		o.Transfer = repack.TransferServer // COPY cannot be carried out by hand
		plan := planOf(t, db, o)
		conn := db.Connect(t)
		mustExec(t, conn, `SET search_path = pg_catalog`)
		for _, stage := range plan.Stages {
			for _, step := range stage.Steps {
				carryOut(t, conn, step)
			}
		}
		sameDump(t, db, before)
		if left := pgtest.Query[string](t, db.Pool, `SELECT coalesce(string_agg(nspname, ', '), '') FROM pg_namespace WHERE nspname ~ '^repack'`); left != "" {
			t.Errorf("left behind: %s", left)
		}
		if after := db.Checksum(t, "app.orders"); after != rows {
			t.Errorf("rows: %s, want %s", after, rows)
		}
		if pgtest.Query[uint32](t, db.Pool, `SELECT 'app.orders'::regclass::oid`) == oid {
			t.Error("the table is still the old one")
		}
	})
}

// heldSQL lists the strongest lock of this session on each table, view and
// sequence that is not the job's, from SHARE UPDATE EXCLUSIVE on; on the table
// itself any.
const heldSQL = `
SELECT   DISTINCT ON (name) mode || ' on ' || name
FROM    (SELECT upper(regexp_replace(regexp_replace(l.mode, 'Lock$', ''), '([a-z])([A-Z])', '\1 \2', 'g')) AS mode,
                '"' || n.nspname || '"."' || c.relname || '"' AS name,
                array_position(ARRAY['AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock',
                    'ShareUpdateExclusiveLock', 'RowExclusiveLock', 'RowShareLock', 'AccessShareLock'], l.mode) AS rank
         FROM   pg_locks l
         JOIN   pg_class c     ON c.oid = l.relation
         JOIN   pg_namespace n ON n.oid = c.relnamespace
         WHERE  l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
         AND    n.nspname IN ('app', 'Other Schema', 'Other', 'Up; per')) x
WHERE    rank <= 5 OR name = '"app"."orders"'
ORDER BY name, rank`

// carryOut runs a step in a transaction of its own. Ranges of blocks span all.
func carryOut(t *testing.T, conn *pgx.Conn, step repack.PlannedStep) {
	t.Helper()
	if len(step.SQL) == 1 && strings.HasPrefix(step.SQL[0], "VACUUM") {
		mustExec(t, conn, step.SQL[0])
		return
	}
	tx := begin(t, conn, pgx.ReadCommitted)
	for _, sql := range step.SQL {
		var args []any
		if strings.Contains(sql, "$1::text::tid") {
			args = []any{"(0,0)", "(4294967295,0)"}
		}
		mustExec(t, tx, strings.ReplaceAll(sql, "''N''::xid8", "''1''::xid8"), args...)
	}
	if len(step.SQL) > 0 {
		sameLocks(t, step, pgtest.Column[string](t, tx, heldSQL))
	}
	commit(t, tx)
}

func sameLocks(t *testing.T, step repack.PlannedStep, held []string) {
	t.Helper()
	var want []string
	for _, l := range step.Locks {
		weak := l.Mode == "ROW SHARE" || l.Mode == "ACCESS SHARE"
		// A weak lock may be needed only where there is something to do.
		if text := l.Mode + " on " + l.Relation; !weak || slices.Contains(held, text) {
			want = append(want, text)
		}
		if l.Seconds <= 0 {
			t.Errorf("%s: %s on %s without a bound", step.Does, l.Mode, l.Relation)
		}
	}
	slices.Sort(want)
	slices.Sort(held)
	if !slices.Equal(want, held) {
		t.Errorf("%s: locks planned and not held or the other way round:\n%s", step.Does,
			textDiff(strings.Join(want, "\n")+"\n", strings.Join(held, "\n")+"\n"))
	}
}

// With a job, the plan is what is left of it, under its number, and says the
// same as before the job.
func TestPlanOfAJob(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		givenPlanned(t, db)
		o := options(t, "app.orders", strategy)
		o.LockTimeout = queuing // there is much to exchange
		whole := planOf(t, db, o)
		for i, stage := range stagesOfJob {
			runUntil(t, db, o, stage)
			before := db.Dump(t)
			if stage == repack.CleanUp {
				break
			}
			plan := planOf(t, db, o)
			if j := plan.Job; j == nil || j.Job != 1 || j.Stage != stage || !j.StageDone || j.Running || j.Swapped != (stage == repack.Swap) {
				t.Errorf("after %s: job %+v", stage, plan.Job)
			}
			rest := *whole
			rest.Stages = whole.Stages[i+2:]
			if want, got := strings.Join(planned(&rest), "\n"), strings.Join(planned(plan), "\n"); got != want {
				t.Errorf("after %s: plan differs from the one before the job:\n%s", stage, textDiff(want, got))
			}
			// Asked for late, it is planned and not recorded.
			late := o
			late.KeepOld = true
			if slices.Contains(planned(planOf(t, db, late)), `DROP TABLE IF EXISTS "repack_job_1_old"."orders"`) {
				t.Errorf("after %s: plan with --keep-old drops the old table", stage)
			}
			sameDump(t, db, before)
		}
		if plan := planOf(t, db, o); plan.Job != nil || len(plan.Stages) != 7 {
			t.Errorf("after the job: job %+v, %d stages", plan.Job, len(plan.Stages))
		}
	})
}

func TestPlanOfAChangedTable(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `CREATE TABLE public.t (id int PRIMARY KEY)`)
	o := options(t, "t", repack.ChangeLog)
	runUntil(t, db, o, repack.Backfill)
	db.Exec(t, `ALTER TABLE public.t ADD COLUMN more int`)
	var drift *repack.DriftError
	if _, err := newRepack(t, db, o).Plan(testContext(t)); !errors.As(err, &drift) {
		t.Errorf("plan of a table that has changed: %v, want a DriftError", err)
	}
}

// Prepared transactions are told of whatever their age; others only after a
// minute.
func TestPlanMeasures(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE TABLE public.t (id int PRIMARY KEY, filler text) WITH (autovacuum_enabled = off);
		INSERT INTO public.t SELECT i, repeat('x', 200) FROM generate_series(1, 20000) AS i;
		DELETE FROM public.t WHERE id % 4 <> 0`)
	plan := planOf(t, db, options(t, "t", repack.ChangeLog))
	if plan.Disk.LiveFraction != nil {
		t.Errorf("live fraction %v of a table that was never analysed", *plan.Disk.LiveFraction)
	}
	db.Exec(t, `VACUUM ANALYZE public.t`)
	db.Exec(t, `BEGIN; LOCK TABLE public.t IN ROW EXCLUSIVE MODE; PREPARE TRANSACTION 'left behind'`)
	plan = planOf(t, db, options(t, "t", repack.ChangeLog))
	d := plan.Disk
	if d.LiveFraction == nil || *d.LiveFraction < 0.23 || *d.LiveFraction > 0.27 {
		t.Errorf("live fraction %v, want about a quarter", d.LiveFraction)
	}
	total := pgtest.Query[int64](t, db.Pool, `SELECT pg_table_size('t') + pg_indexes_size('t')`)
	if d.AtMost > total || d.AtMost < total*9/10 || d.Rows != 5000 || d.WAL != d.AtMost {
		t.Errorf("disk %+v, table and indexes have %d bytes", d, total)
	}
	if len(plan.WaitsFor) != 1 || plan.WaitsFor[0].GID != "left behind" || plan.WaitsFor[0].Lock != "ROW EXCLUSIVE" {
		t.Errorf("waits for %+v, want the prepared transaction", plan.WaitsFor)
	}
}
