package tests

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// combination is a kind of foreign key.
type combination struct{ name, sql string }

// combinations are those of actions and of when a key is checked: some in which each
// action and each time is there; or all, a few at a time.
func combinations() (lists [][]combination) {
	actions := []string{"NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"}
	times := []string{"", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"}
	lists = make([][]combination, 1)
	if thorough() {
		lists = make([][]combination, len(actions)*len(times))
	}
	for d, onDelete := range actions {
		for u, onUpdate := range actions {
			for w, when := range times {
				if (d+2*u)%5 == 0 && w == d%len(times) || (d+u)%5 == 1 && w == 0 || thorough() {
					list := &lists[(u*len(times)+w)%len(lists)]
					*list = append(*list, combination{
						name: fmt.Sprintf("k%d%d%d", d, u, w),
						sql:  fmt.Sprintf("ON DELETE %s ON UPDATE %s %s", onDelete, onUpdate, when),
					})
				}
			}
		}
	}
	return lists
}

// everyActionSQL makes app.hub and control.hub with a referring table, and a column that
// refers to base, for each combination.
func everyActionSQL(list []combination) string {
	var hub, kids strings.Builder
	for _, c := range list {
		fmt.Fprintf(&hub, ", %s bigint DEFAULT 0 CONSTRAINT of_%[1]s REFERENCES @base %[2]s", c.name, c.sql)
		fmt.Fprintf(&kids, ";\nCREATE TABLE @%s (id bigint PRIMARY KEY, hub bigint DEFAULT 0 CONSTRAINT to_%[1]s REFERENCES @hub %[2]s)", c.name, c.sql)
	}
	return "CREATE TABLE @base (id bigint PRIMARY KEY); INSERT INTO @base VALUES (0);\n" +
		"CREATE TABLE @hub (id bigint PRIMARY KEY, n int" + hub.String() + ");\nINSERT INTO @hub (id) VALUES (0)" + kids.String()
}

// actionsFor are transactions that have every action of a combination done; $ is a
// number of their own.
func actionsFor(c combination) []string {
	list := []string{
		`
			INSERT INTO @hub (id) SELECT $0 + g FROM generate_series(1, 9) g;
			INSERT INTO @K SELECT $0 + g, $0 + g FROM generate_series(1, 7) g`,
		`INSERT INTO @base SELECT $0 + g FROM generate_series(1, 6) g; UPDATE @hub SET K = id WHERE id BETWEEN $1 AND $6`,
		`DELETE FROM @hub WHERE id = $1`,
		`UPDATE @hub SET id = id + 1000000 WHERE id = $2`,
		`DELETE FROM @base WHERE id = $3`,
		`UPDATE @base SET id = id + 1000000 WHERE id = $4`,
		`DELETE FROM @hub WHERE id = $5; INSERT INTO @hub (id) VALUES ($5)`,
		`UPDATE @hub SET id = id + 2000000 WHERE id = $6; UPDATE @K SET hub = hub + 2000000 WHERE hub = $6`,
		`INSERT INTO @K VALUES ($8, -$8)`,
		`INSERT INTO @K VALUES ($9, $9 + 50000000); INSERT INTO @hub (id) VALUES ($9 + 50000000)`,
		`UPDATE @hub SET K = -$7 WHERE id = $7`,
		`WITH p AS (INSERT INTO @hub (id) VALUES ($0) RETURNING id) INSERT INTO @K SELECT id, id FROM p`,
		`INSERT INTO @hub (id, n) VALUES ($7, 1) ON CONFLICT (id) DO UPDATE SET n = 2`,
		`INSERT INTO @hub (id, n) VALUES ($7, 1) ON CONFLICT (id) DO UPDATE SET id = EXCLUDED.id + 3000000`,
		`SET CONSTRAINTS ALL IMMEDIATE; DELETE FROM @hub WHERE id = $7`,
		`SET CONSTRAINTS ALL DEFERRED; DELETE FROM @hub WHERE id = $7; DELETE FROM @K WHERE hub = $7`,
	}
	for i := range list {
		list[i] = strings.ReplaceAll(strings.ReplaceAll(list[i], "@K", "@"+c.name), "SET K =", "SET "+c.name+" =")
	}
	return list
}

// outcome runs one transaction and says how it ended.
func outcome(t *testing.T, db *pgtest.Database, sql string) string {
	t.Helper()
	err := pgx.BeginFunc(testContext(t), db.Pool, func(tx pgx.Tx) error {
		for _, statement := range strings.Split(sql, "; ") {
			if _, err := tx.Exec(testContext(t), statement); err != nil {
				return err
			}
		}
		return nil
	})
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code + " " + pgErr.TableName + " " + pgErr.ConstraintName
	}
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return ""
}

// mayBeTemporary reports whether a message may name the key that the tool has made. A
// key that is checked in the statement reports the error first.
func mayBeTemporary(c combination, sql string) bool {
	return strings.Contains(c.sql, "INITIALLY DEFERRED") || strings.Contains(sql, "SET CONSTRAINTS ALL DEFERRED")
}

// actAll does everything with every combination in both schemas, and compares how each
// transaction ended, and all rows.
func actAll(t *testing.T, db *pgtest.Database, list []combination, round int) {
	t.Helper()
	failed := 0
	for i, c := range list {
		number := strings.NewReplacer("$", fmt.Sprint(round*100+i+100))
		for _, sql := range actionsFor(c) {
			sql = number.Replace(sql)
			is, want := outcome(t, db, inApp.Replace(sql)), outcome(t, db, inControl.Replace(sql))
			if mayBeTemporary(c, sql) {
				is = strings.ReplaceAll(is, "repack_1_", "")
			}
			if is != want {
				t.Errorf("round %d, %s: %s: %q, want %q", round, c.sql, sql, is, want)
			}
			if want != "" {
				failed++
			}
		}
		alike(t, db, c.name)
	}
	if failed == 0 {
		t.Error("no statement was refused: nothing was compared")
	}
	alike(t, db, "hub", "base")
}

// Every action of every kind of key, of the table and to it, has the same effect and
// the same error as without the tool: when all neighbours are joined to both tables, when
// the tables have been exchanged, and on the way back.
func TestKeysOneByOneActions(t *testing.T) {
	t.Parallel()
	for i, list := range combinations() {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			keysOneByOneActions(t, list)
		})
	}
}

func keysOneByOneActions(t *testing.T, list []combination) {
	t.Helper()
	db := withRegistry.New(t)
	twins(t, db, everyActionSQL(list))
	before, round := db.Dump(t), 0
	act := func() { round++; actAll(t, db, list, round) }
	at := func(o repack.Options, steps map[string]int) repack.Options { // the nth of a name
		seen := map[string]int{}
		o.Hooks.AfterStep = oneAtATime(func(_ context.Context, name string) error {
			if seen[name]++; steps[name] == seen[name] {
				act()
			}
			return nil
		})
		return o
	}
	o := oneByOne(t, "app.hub", repack.ChangeLog)
	o.Logger = nil
	runUntil(t, db, at(o, map[string]int{repack.StepKeyValidated: 2 * len(list), repack.StepExchanged: 1}), repack.Swap)
	if round != 2 {
		t.Errorf("everything was done %d times, want 2", round)
	}
	r := newRepack(t, db, at(o, map[string]int{repack.StepExchangedBack: 1}))
	if err := r.Revert(testContext(t)); err != nil {
		t.Fatalf("revert: %v", err)
	}
	if round != 3 {
		t.Errorf("everything was done %d times, want 3", round)
	}
	sameDump(t, db, before)
	noArtefacts(t, db)
}
