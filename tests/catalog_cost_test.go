package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// crowdSQL is a database of a thousand tables with ten thousand constraints, and
// some hundreds of the rest.
const crowdSQL = `
CREATE SCHEMA crowd;
CREATE FUNCTION crowd.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
DO LANGUAGE plpgsql $$
BEGIN
    FOR i IN 1..1000 LOOP
        EXECUTE format('CREATE TABLE crowd.t%1$s (
            id int DEFAULT 1 CONSTRAINT k%1$s PRIMARY KEY,
            up int CONSTRAINT f%1$s REFERENCES crowd.t%2$s,
            a  int DEFAULT 2,
            n  int GENERATED ALWAYS AS IDENTITY,
            CONSTRAINT c1 CHECK (a > 1), CONSTRAINT c2 CHECK (a > 2), CONSTRAINT c3 CHECK (a > 3), CONSTRAINT c4 CHECK (a > 4),
            CONSTRAINT c5 CHECK (a > 5), CONSTRAINT c6 CHECK (a > 6), CONSTRAINT c7 CHECK (a > 7), CONSTRAINT c8 CHECK (a > 8))',
            i, greatest(i - 1, 1));
        IF i % 2 = 0 THEN
            EXECUTE format('CREATE VIEW crowd.v%1$s AS SELECT id, a FROM crowd.t%1$s', i);
            EXECUTE format('CREATE FUNCTION crowd.f%1$s() RETURNS int LANGUAGE sql AS %2$L', i, 'SELECT 1');
            EXECUTE format('CREATE TRIGGER touch BEFORE UPDATE ON crowd.t%1$s FOR EACH ROW
                            EXECUTE FUNCTION crowd.f()', i);
            EXECUTE format('CREATE STATISTICS crowd.s%1$s ON up, a FROM crowd.t%1$s', i);
            EXECUTE format('CREATE POLICY p ON crowd.t%1$s USING (a > 0)', i);
        END IF;
    END LOOP;
END $$;
ANALYZE`

// growing are the catalogs with more rows the more there is in a database. They
// are to be read by their indexes.
var growing = []string{
	"pg_attrdef", "pg_attribute", "pg_class", "pg_constraint", "pg_depend", "pg_description", "pg_index", "pg_policy", "pg_proc",
	"pg_rewrite", "pg_sequence", "pg_shdepend", "pg_statistic_ext", "pg_trigger", "pg_type",
}

// readWhole are the statements, by a part of them, that may read a catalog as a
// whole, and why.
var readWhole = map[string]string{
	"WITH RECURSIVE part_of (type, part, shape)": "looks for every column of the database that holds OIDs, which only its type tells; once a run",
	"regexp_replace(encode(t.tgargs":             "looks into the arguments of every trigger, which no index knows; once a run, where a table is referred to by its OID",
	`CASE WHEN $1 ~ '^\w+$' THEN p.prosrc`:       "looks for the table's name in the body of every function, which depends on nothing that it names",
}

// asked is a tracer that notes the statements that read, with their arguments.
type asked struct {
	mu   sync.Mutex
	args map[string][]any

	explaining sync.Mutex // not mu: a plan may have to wait for a session that asks
}

func (a *asked) noted() map[string][]any {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.args)
}

var readingPattern = regexp.MustCompile(`(?i)^\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\b`)

func (a *asked) note(sql string, args []any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	together := len(args) == 0 && strings.Contains(sql, ";\n") // settings, and what is done under them
	if _, there := a.args[sql]; !there && !together && readingPattern.MatchString(sql) {
		a.args[sql] = slices.DeleteFunc(slices.Clone(args), func(arg any) bool { _, is := arg.(pgx.QueryExecMode); return is })
	}
}

func (a *asked) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	a.note(data.SQL, data.Args)
	return ctx
}

func (a *asked) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (a *asked) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, query := range data.Batch.QueuedQueries {
		a.note(query.SQL, query.Arguments)
	}
	return ctx
}

func (a *asked) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (a *asked) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// planNode is what EXPLAIN says of a node of a plan.
type planNode struct {
	Type      string     `json:"Node Type"`
	Schema    string     `json:"Schema"`
	Relation  string     `json:"Relation Name"`
	Condition string     `json:"Index Cond"`
	Rows      float64    `json:"Plan Rows"`
	Plans     []planNode `json:"Plans"`
}

// whole lists the growing catalogs that the plan reads as a whole.
func (n planNode) whole() (found []string) {
	if slices.Contains(growing, n.Relation) && n.Schema == "pg_catalog" &&
		(n.Type == "Seq Scan" || strings.HasPrefix(n.Type, "Index") && n.Condition == "") {
		found = append(found, fmt.Sprintf("%s of %s", n.Type, n.Relation))
	}
	for _, p := range n.Plans {
		found = append(found, p.whole()...)
	}
	return found
}

// explained are the plans of statements, by their text: one for their arguments, and
// the one for all, which serves under the lock of the swap.
type explained map[string][]planNode

// explain asks for the plans of the statements that have come since. It is to be
// called while the objects of the job are there.
func (e explained) explain(t *testing.T, conn *pgx.Conn, a *asked) (unplanned map[string]error) {
	t.Helper()
	a.explaining.Lock()
	defer a.explaining.Unlock()
	unplanned = map[string]error{}
	for sql, args := range a.noted() {
		if _, there := e[sql]; there {
			continue
		}
		plans, err := plansOf(testContext(t), conn, sql, args)
		if err != nil {
			unplanned[sql] = err
			continue
		}
		e[sql] = plans
	}
	return unplanned
}

func plansOf(ctx context.Context, conn *pgx.Conn, sql string, args []any) ([]planNode, error) {
	const explain, name = "EXPLAIN (VERBOSE, FORMAT JSON) ", "explained"
	if len(args) > 0 {
		if named, is := args[0].(pgx.QueryRewriter); is {
			var err error
			if sql, args, err = named.RewriteQuery(ctx, conn, sql, args[1:]); err != nil {
				return nil, err
			}
		}
	}
	var plans []planNode
	note := func(sql string, args ...any) error {
		var text string
		if err := conn.QueryRow(ctx, explain+sql, args...).Scan(&text); err != nil {
			return err
		}
		var plan []struct{ Plan planNode }
		err := json.Unmarshal([]byte(text), &plan)
		for _, p := range plan {
			plans = append(plans, p.Plan)
		}
		return err
	}
	if err := note(sql, args...); err != nil {
		return nil, err
	}
	if _, err := conn.Prepare(ctx, name, sql); err != nil {
		return nil, err
	}
	execute := "EXECUTE " + name
	if len(args) > 0 {
		execute += "(" + strings.TrimSuffix(strings.Repeat("NULL, ", len(args)), ", ") + ")"
	}
	if err := note(execute); err != nil {
		return nil, err
	}
	return plans, conn.Deallocate(ctx, name)
}

// TestCatalogIsReadByIndexes has the statements of a run, and of what goes with it,
// planned in a database that has many other tables.
func TestCatalogIsReadByIndexes(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		givenPlanned(t, db)
		db.Exec(t, crowdSQL)
		a, plans := &asked{args: map[string][]any{}}, explained{}
		conn := db.Connect(t)
		mustExec(t, conn, `SET search_path = pg_catalog; SET plan_cache_mode = force_generic_plan`)
		o := options(t, "app.orders", strategy)
		o.Transfer, o.LockTimeout = repack.TransferServer, queuing // there is much to exchange
		o.Hooks.AfterStep = func(context.Context, string) error {
			plans.explain(t, conn, a)
			return nil
		}
		config := db.Config(t)
		config.Tracer = a
		r, err := repack.New(config, o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Plan(testContext(t)); err != nil {
			t.Fatalf("plan: %v", err)
		}
		if err := r.Run(testContext(t)); err != nil {
			t.Fatalf("run: %v", err)
		}
		unplanned := plans.explain(t, conn, a)
		for sql, err := range unplanned {
			// Statements on the job's own tables, which came and went between two steps.
			var pgErr *pgconn.PgError
			if !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.UndefinedTable && pgErr.Code != pgerrcode.InvalidSchemaName {
				t.Errorf("not planned: %v\n%s", err, sql)
			}
		}
		excused := map[string]bool{}
		for sql, both := range plans {
			var found []string
			for _, plan := range both {
				found = append(found, plan.whole()...)
			}
			if len(found) == 0 {
				continue
			}
			isExcused := false
			for part := range readWhole {
				if strings.Contains(sql, part) {
					excused[part], isExcused = true, true
				}
			}
			if !isExcused {
				t.Errorf("%s:\n%s", strings.Join(found, ", "), sql)
			}
		}
		for part := range readWhole {
			if !excused[part] {
				t.Errorf("no statement needs the exception for %q", part)
			}
		}
		t.Logf("%d statements planned, %d not planned", len(plans), len(unplanned))
	})
}
