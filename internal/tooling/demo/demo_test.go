package demo

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const fewRows = 20_000

func TestProofHoldsOnAThrowawayServer(t *testing.T) {
	for _, strategy := range []string{repack.ChangeLog, repack.DirectTrigger} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			if err := Run(testContext(t), Options{Rows: fewRows, Strategy: strategy, Out: &out}); err != nil {
				t.Errorf("run: %v", err)
			}
			t.Log(out.String())
			if !strings.Contains(out.String(), "The proof holds") {
				t.Error("the output does not say that the proof holds")
			}
		})
	}
}

// TestToBigint: the writers go beyond the end of integer, and none of them sees an error.
func TestToBigint(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := Run(testContext(t), Options{Rows: fewRows, Strategy: repack.ChangeLog, ToBigint: true, Out: &out}); err != nil {
		t.Errorf("run: %v", err)
	}
	t.Log(out.String())
	for _, want := range []string{"greatest id of an order", "an integer ends at 2,147,483,647", "The proof holds"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output does not say %q", want)
		}
	}
}

func TestACorruptedRowFailsTheProof(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var out strings.Builder
	o := Options{Rows: MinRows, Strategy: repack.ChangeLog, DSN: db.DSN, Out: &out}
	o.Hooks.AfterStage = func(_ context.Context, stage repack.Stage) error {
		if stage == repack.CleanUp {
			db.Exec(t, `UPDATE repack_demo.orders SET cents = cents + 1 WHERE id = `+quietOrder)
		}
		return nil
	}
	if err := Run(testContext(t), o); !errors.Is(err, ErrProof) {
		t.Errorf("error %v, want ErrProof", err)
	}
	if want := "0 missing, 0 extra, 1 different, such as those of id [" + quietOrder + "]"; !strings.Contains(out.String(), want) {
		t.Errorf("output does not contain %q:\n%s", want, out.String())
	}
	wantNoSchemas(t, db)
}

func TestNothingStaysOnAnotherServer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	o := Options{Rows: MinRows, Strategy: repack.DirectTrigger, DSN: db.DSN, Out: io.Discard}
	if err := Run(testContext(t), o); err != nil {
		t.Errorf("run: %v", err)
	}
	wantNoSchemas(t, db)
}

func TestInterruptCleansUp(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx, cancel := context.WithCancel(testContext(t))
	o := Options{Rows: MinRows, Strategy: repack.ChangeLog, DSN: db.DSN, Out: io.Discard, Keep: true}
	o.Hooks.AfterStage = func(_ context.Context, stage repack.Stage) error {
		if stage == repack.Backfill {
			cancel()
		}
		return nil
	}
	if err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	wantNoSchemas(t, db)
}

func TestKeepLeavesTheSchemas(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	o := Options{Rows: MinRows, Strategy: repack.ChangeLog, DSN: db.DSN, Out: io.Discard, Keep: true}
	if err := Run(testContext(t), o); err != nil {
		t.Errorf("run: %v", err)
	}
	if got := query(t, db, `SELECT count(*) FROM repack_demo.orders o JOIN repack_demo.customers c ON c.id = o.customer_id`); got == "0" {
		t.Error("the table is empty")
	}
}

func TestSchemaThatIsThereIsLeftAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA repack_demo; CREATE TABLE repack_demo.orders AS SELECT 'precious' AS what`)
	o := Options{Rows: MinRows, Strategy: repack.ChangeLog, DSN: db.DSN, Out: io.Discard}
	err := Run(testContext(t), o)
	if err == nil || !strings.Contains(err.Error(), "schema repack_demo") {
		t.Errorf("error %v does not name the schema", err)
	}
	if got := query(t, db, `SELECT what FROM repack_demo.orders`); got != "precious" {
		t.Errorf("the table of somebody else holds %q", got)
	}
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{
		{Rows: MinRows - 1, Strategy: repack.ChangeLog},
		{Rows: MinRows, Strategy: "best"},
		{Rows: MinRows, Strategy: repack.ChangeLog, DSN: "port=none"},
	} {
		o.Out = io.Discard
		var usage *repack.UsageError
		if err := Run(testContext(t), o); !errors.As(err, &usage) {
			t.Errorf("%+v: error %v, want *repack.UsageError", o, err)
		}
	}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// query asks for a single text.
func query(t *testing.T, db *pgtest.Database, sql string) (answer string) {
	t.Helper()
	if err := db.Connect(t).QueryRow(t.Context(), `SELECT q::text FROM (`+sql+`) AS answer (q)`).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return answer
}

func wantNoSchemas(t *testing.T, db *pgtest.Database) {
	t.Helper()
	if got := query(t, db, `SELECT array_agg(nspname) FROM pg_namespace WHERE nspname LIKE 'repack%' HAVING count(*) > 0 UNION ALL SELECT '{}' LIMIT 1`); got != "{}" {
		t.Errorf("left behind: schemas %s", got)
	}
}
