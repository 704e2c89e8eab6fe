package preflight

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/neighbours"
	"github.com/repack-go/repack/stages/steps"
)

// Some steps of the exchange of a partition take time under the locks. ATTACH PARTITION
// looks up what each row refers to by the foreign keys of the partitioned table. And a
// key to a partitioned table is dropped and added for each of its partitions. No key is
// added to the shadow in advance. A copy may lag, for example when a writer has an old
// snapshot. With a key, its rows would then make statements of the application fail.
//
// So repack finds out beforehand whether half of the time suffices for which the
// application may be held up. In the exchange, no statement may take longer than the lock
// waits have left of all of this time.

const (
	// partTakes is about how long it takes to drop and add a key, for each partition.
	partTakes = time.Millisecond
	// longestLook is the longest time for which a check is timed.
	longestLook = 5 * time.Second
)

// slowKeys returns reasons not to repack the table: the exchange, or a revert, would take
// too long because of foreign keys.
func (p *Inspector) slowKeys(ctx context.Context) ([]checks.Reason, error) {
	const remedy = "raise --lock-timeout if the application may be held up for so long, or drop it for the time of the repack"
	var reasons []checks.Reason
	if parts := len(p.Source.Readded()); parts > 0 {
		var locks int
		if err := p.Pool.QueryRow(ctx, lockTableSQL).Scan(&locks); err != nil {
			return nil, fmt.Errorf("read the size of the lock table: %w", err)
		}
		if reasons = p.mover().LargeTrees(locks); p.mover().Apart(p.Source) == nil {
			parts -= p.mover().PartsInTrees()
		}
		what := fmt.Sprintf("foreign keys with %d partitions", parts)
		if took := time.Duration(parts) * partTakes; took > p.Locks.Timeout/2 {
			reasons = append(reasons, checks.Reason{Object: what, Why: fmt.Sprintf(
				"would be dropped and added under lock, which takes about %s, more than half of the lock timeout of %s", took, p.Locks.Timeout), Remedy: remedy})
		}
		if parts*neighbours.PartLocks > locks/2 {
			reasons = append(reasons, checks.Reason{Object: what, Why: fmt.Sprintf(
				"would be dropped and added with about %d locks, more than half of what the server has", parts*neighbours.PartLocks), Remedy: "raise max_locks_per_transaction"})
		}
	}
	took, keys, err := p.timeKeys(ctx, p.Source, p.Source.Name)
	if err != nil {
		return nil, err
	}
	if took > p.Locks.Timeout/2 {
		reasons = append(reasons, checks.Reason{Object: keys, Why: "is the partitioned table's: PostgreSQL checks every row by it under lock, which takes " +
			tookText(took, p.Locks.Timeout), Remedy: remedy})
	}
	slow, err := p.slowDefault(ctx, p.Source, took)
	if err != nil {
		return nil, err
	}
	return append(reasons, slow...), nil
}

const lockTableSQL = `
SELECT current_setting('max_locks_per_transaction')::int
       * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)`

// KeysFit makes sure that table on can be attached in the place of the table with OID oid
// in the time that there is. It runs before the exchange, when no session waits.
func (p *Inspector) KeysFit(ctx context.Context, oid uint32, on catalog.Name) error {
	now, err := catalog.Read(ctx, p.Pool, oid)
	if err != nil {
		return p.GoneOr(err)
	}
	took, keys, err := p.timeKeys(ctx, now, on)
	if err != nil {
		return err
	}
	if took <= p.Locks.Timeout/2 {
		slow, err := p.slowDefault(ctx, now, took)
		if err != nil || len(slow) == 0 {
			return err
		}
		return fmt.Errorf("%s; nothing has been exchanged, run again", slow[0])
	}
	return fmt.Errorf("%s: to attach %s PostgreSQL checks every row of it under lock, which takes %s; nothing has been exchanged, "+
		"run again, with a higher --lock-timeout if the application may be held up for so long", keys, on, tookText(took, p.Locks.Timeout))
}

func tookText(took, timeout time.Duration) string {
	text := took.Round(time.Millisecond).String()
	if took >= longestLook {
		text = "longer than " + longestLook.String()
	}
	return fmt.Sprintf("%s, more than half of the lock timeout of %s", text, timeout)
}

// timeKeys measures how long the server takes for its checks when it attaches table on in
// the place of t. It runs the same queries, and the server plans them in the same way.
func (p *Inspector) timeKeys(ctx context.Context, t *catalog.Table, on catalog.Name) (took time.Duration, keys string, err error) {
	if t.Partition == nil {
		return 0, "", nil
	}
	var checks, names []string
	for _, key := range t.Partition.ForeignKeys {
		if key.Enforced {
			checks, names = append(checks, key.CheckSQL(on)), append(names, catalog.Quote(key.Name))
		}
	}
	if len(checks) == 0 {
		return 0, "", nil
	}
	if took, err = p.timeChecks(ctx, checks); err != nil {
		return 0, "", err
	}
	p.Log.Debug("checks of foreign keys timed", "table", on.String(), "keys", names, "took", took.Round(time.Millisecond))
	return took, "foreign key " + strings.Join(names, ", "), nil
}

// checkSettingsSQL makes the server plan a query as RI_Initial_Check in ri_triggers.c
// plans its own.
const checkSettingsSQL = `
SET TRANSACTION READ ONLY;
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL hash_mem_multiplier = 1;
SET LOCAL statement_timeout = %d;
SELECT set_config('work_mem', current_setting('maintenance_work_mem'), true)`

// timeChecks measures how long queries take that the server runs when it attaches a
// partition. If they take too long, it measures again, because the rows may have been read
// from disk the first time.
func (p *Inspector) timeChecks(ctx context.Context, checks []string) (took time.Duration, err error) {
	for range 2 {
		took, err = p.timeOnce(ctx, checks)
		if err != nil || took <= p.Locks.Timeout/2 || took >= longestLook {
			break
		}
	}
	return took, err
}

func (p *Inspector) timeOnce(ctx context.Context, checks []string) (time.Duration, error) {
	var took time.Duration
	err := pgx.BeginFunc(ctx, p.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf(checkSettingsSQL, longestLook.Milliseconds())); err != nil {
			return err
		}
		began := time.Now()
		err := steps.ExecAll(ctx, tx, checks)
		took = time.Since(began)
		return err
	})
	var pgErr *pgconn.PgError
	if ctx.Err() == nil && errors.As(err, &pgErr) && pgErr.Code == pgerrcode.QueryCanceled {
		return max(took, longestLook), nil
	}
	if err != nil {
		return 0, fmt.Errorf("time what the server checks when it attaches a partition: %w", err)
	}
	return took, nil
}
