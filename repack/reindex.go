package repack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/bloat"
	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/signals"
	"github.com/repack-go/repack/stages/throttle"
)

// Reindexed is what has become of an index.
type Reindexed struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	Table  string `json:"table"` // as SQL writes it
	// Result is rebuilt or skipped, and Reason says why it was skipped.
	Result string `json:"result"`
	Reason string `json:"reason"`
	// BytesBefore and BytesAfter are its sizes.
	BytesBefore int64   `json:"bytes_before"`
	BytesAfter  *int64  `json:"bytes_after"`
	Seconds     float64 `json:"seconds"`
}

// Rebuild says which indexes Reindex rebuilds.
type Rebuild struct {
	// Selection chooses tables; its MinBloat and MinSize are those of each index.
	Selection
	// Indexes are names of indexes, as SQL writes them without the schema. Default: all.
	Indexes []string
	// After is called with each result. It may be nil.
	After func(Reindexed)
}

// index is an index that may be rebuilt.
type index struct {
	OID                        uint32
	TableOID                   uint32 `db:"table_oid"`
	Schema, Name               string
	TableSchema, TableName     string
	Size                       int64
	Valid, Exclusion, Extended bool
}

func (i index) name() catalog.Name  { return catalog.Name{Schema: i.Schema, Name: i.Name} }
func (i index) table() catalog.Name { return catalog.Name{Schema: i.TableSchema, Name: i.TableName} }

// indexesSQL lists the indexes of tables, the smallest first.
const indexesSQL = `
SELECT   c.oid                    AS oid,
         i.indrelid               AS table_oid,
         n.nspname::text          AS schema,
         c.relname::text          AS name,
         tn.nspname::text         AS table_schema,
         t.relname::text          AS table_name,
         pg_relation_size(c.oid)  AS size,
         i.indisvalid             AS valid,
         i.indisexclusion         AS exclusion,
         c.relkind <> 'i'         AS extended
FROM     pg_index i
JOIN     pg_class c      ON c.oid = i.indexrelid
JOIN     pg_namespace n  ON n.oid = c.relnamespace
JOIN     pg_class t      ON t.oid = i.indrelid
JOIN     pg_namespace tn ON tn.oid = t.relnamespace
WHERE    i.indrelid = ANY ($1)
ORDER BY pg_relation_size(c.oid), n.nspname, c.relname`

// Reindex rebuilds the indexes of the tables of a selection with REINDEX INDEX CONCURRENTLY, one
// after the other, the smallest first; those of partitions each by itself. Indexes that cannot be
// rebuilt so are skipped, and named. The options' limits and windows hold before each index.
//
// Before an index is rebuilt, Reindex waits, at most for Options.MaxSnapshotWait, until no
// transaction is open that has written to its table. If there is one still, it returns
// *LockTimeoutError, and nothing is left. A rebuild that fails or is killed leaves an invalid index
// ("…_ccnew"): it is dropped at once, or by the next call. Such an index of somebody else is left
// alone.
//
// A rebuild takes SHARE UPDATE EXCLUSIVE on the table, and waits for transactions that have older
// snapshots, each time at most for Options.MaxSnapshotWait. If one of these waits for a lock on the
// table, the rebuild gives way, and Reindex returns *LockTimeoutError.
func (r *Repack) Reindex(ctx context.Context, b Rebuild) ([]Reindexed, error) {
	chosen, minimum := b.Selection, b.Selection
	chosen.MinBloat, chosen.MinSize = "", ""
	limits, err := minimum.limits()
	if err != nil {
		return nil, err
	}
	conn, err := session.ConnectAsIs(ctx, r.config)
	if err != nil {
		return nil, err
	}
	defer func() { session.Close(ctx, conn) }()
	if len(chosen.Tables)+len(chosen.Schemas) == 0 && !chosen.All {
		return nil, &UsageError{errors.New("no table given: name tables, or give --schema or --all")}
	}
	tables, err := r.choose(ctx, conn, chosen)
	if err != nil {
		return nil, err
	}
	if len(tables) == 0 {
		return nil, ErrNothingChosen
	}
	if err := session.Configure(ctx, conn); err != nil {
		return nil, err
	}
	if err := r.upgrade(ctx, conn); err != nil {
		return nil, err
	}
	x := &rebuilding{Repack: r, conn: conn, slots: throttle.New(nil, 1, false), signals: signals.New(r.config, r.options.Limits)}
	defer x.signals.Close(context.WithoutCancel(ctx))
	x.slots.GiveUpAfter(r.options.GiveUpAfter)
	x.slots.Obey(r.options.Logger, append(r.options.throttlers(), x.signals.Throttlers()...)...)
	if err := x.signals.Ready(ctx); err != nil {
		return nil, err
	}
	if err := x.dropLeft(ctx); err != nil {
		return nil, err
	}
	list, err := x.indexes(ctx, tables, b, limits)
	if err != nil {
		return nil, err
	}
	return x.all(ctx, list, b.After)
}

// rebuilding is one call of Reindex.
type rebuilding struct {
	*Repack
	conn    *pgx.Conn
	slots   *throttle.Throttle
	signals *signals.Set
}

// indexes lists the indexes to rebuild.
func (x *rebuilding) indexes(ctx context.Context, tables []Chosen, b Rebuild, l limits) ([]index, error) {
	oids, err := leavesOf(ctx, x.conn, tables)
	if err != nil {
		return nil, err
	}
	rows, err := x.conn.Query(ctx, indexesSQL, oids)
	if err != nil {
		return nil, fmt.Errorf("list indexes: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[index])
	if err != nil {
		return nil, fmt.Errorf("list indexes: %w", err)
	}
	missing := &NoMatchError{}
	for _, name := range b.Indexes {
		if !slices.ContainsFunc(list, func(i index) bool { return i.Name == unquoted(name) }) {
			missing.Patterns = append(missing.Patterns, "index "+name)
		}
	}
	if len(missing.Patterns) > 0 {
		return nil, missing
	}
	var wasted map[uint32]bloat.Space
	if b.MinBloat != "" {
		if wasted, err = bloat.ReadIndexes(ctx, x.conn, oids); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(list, func(i index) bool {
		named := slices.ContainsFunc(b.Indexes, func(name string) bool { return i.Name == unquoted(name) })
		return len(b.Indexes) > 0 && !named || float64(i.Size) < l.minSize || b.MinBloat != "" && !bloated(wasted[i.OID], l)
	}), nil
}

// unquoted returns a name as the server stores it.
func unquoted(name string) string {
	if len(name) > 1 && name[0] == '"' && name[len(name)-1] == '"' {
		return strings.ReplaceAll(name[1:len(name)-1], `""`, `"`)
	}
	return strings.ToLower(name)
}

// bloated reports whether an index wastes as much as is asked for.
func bloated(s bloat.Space, l limits) bool {
	wasted, percent := s.Wasted(), s.Percent()
	return wasted != nil && percent != nil && float64(*wasted) >= l.minBytes && *percent >= l.minPercent
}

// all rebuilds indexes.
func (x *rebuilding) all(ctx context.Context, list []index, after func(Reindexed)) ([]Reindexed, error) {
	results := []Reindexed{}
	for _, i := range list {
		result := Reindexed{Schema: i.Schema, Name: i.Name, Table: i.table().String(), BytesBefore: i.Size, Result: "skipped"}
		switch {
		case i.Exclusion:
			result.Reason = "PostgreSQL cannot rebuild the index of an exclusion constraint concurrently"
		case !i.Valid:
			result.Reason = "it is invalid: drop it, or rebuild it by hand"
		case i.Extended:
			result.Reason = "it is partitioned: the indexes of its partitions are rebuilt"
		default:
			began := time.Now()
			err := x.rebuild(ctx, i)
			if errors.Is(err, registry.ErrNotFound) {
				result.Reason = "it has been dropped"
				break
			}
			if err != nil {
				return results, err
			}
			var size int64
			if err := x.conn.QueryRow(ctx, `SELECT coalesce(pg_relation_size(to_regclass($1)), 0)`, i.name().String()).Scan(&size); err != nil {
				return results, fmt.Errorf("measure index %s: %w", i.name(), err)
			}
			result.Result, result.BytesAfter, result.Seconds = "rebuilt", &size, time.Since(began).Seconds()
		}
		results = append(results, result)
		if after != nil {
			after(result)
		}
	}
	return results, nil
}

// rebuild rebuilds one index. No run works on its table meanwhile.
func (x *rebuilding) rebuild(ctx context.Context, i index) error {
	if err := x.slots.Wait(ctx, throttle.Copying); err != nil {
		return err
	}
	if err := registry.TryLock(ctx, x.conn, i.TableOID, i.table().String()); err != nil {
		return err
	}
	defer func() { _ = registry.Unlock(context.WithoutCancel(ctx), x.conn, i.TableOID) }() // it ends with the session
	if err := x.awaitWriters(ctx, i); err != nil {
		return err
	}
	noted, err := x.registry.BeginReindex(ctx, x.conn, i.OID)
	if err != nil {
		return err
	}
	x.options.Logger.Info("index is rebuilt", "index", i.name().String(), "bytes", i.Size)
	failed := x.concurrently(ctx, x.conn, i.TableOID, i.name().String(), "REINDEX INDEX CONCURRENTLY "+i.name().String())
	if failed == nil {
		return x.registry.EndReindex(ctx, x.conn, noted.ID)
	}
	return errors.Join(fmt.Errorf("rebuild index %s: %w", i.name(), failed), x.after(ctx, noted))
}

// after drops what a rebuild has left. It does so also when ctx has ended.
func (x *rebuilding) after(ctx context.Context, noted registry.Reindex) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), x.options.MaxSnapshotWait+releasing)
	defer cancel()
	conn, err := session.Connect(ctx, x.config)
	if err != nil {
		return err
	}
	defer session.Close(ctx, conn)
	return x.drop(ctx, conn, noted)
}

// drop drops what a rebuild has left, and records that there is nothing any more.
func (x *rebuilding) drop(ctx context.Context, conn *pgx.Conn, noted registry.Reindex) error {
	left, err := noted.Left(ctx, conn)
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := x.concurrently(ctx, conn, noted.TableOID, name, "DROP INDEX CONCURRENTLY IF EXISTS "+name); err != nil {
			return fmt.Errorf("drop index %s, which a rebuild has left: %w; run again to drop it", name, err)
		}
		x.options.Logger.Info("index that a rebuild has left is dropped", "index", name)
	}
	return x.registry.EndReindex(ctx, conn, noted.ID)
}

// dropLeft drops what earlier calls have left that were killed. One that is still at work holds the
// lock of its table.
func (x *rebuilding) dropLeft(ctx context.Context) error {
	open, err := x.registry.OpenReindexes(ctx, x.conn)
	if err != nil {
		return err
	}
	for _, noted := range open {
		held, err := registry.Held(ctx, x.conn, noted.TableOID)
		if err != nil {
			return err
		}
		if held {
			continue
		}
		if err := x.drop(ctx, x.conn, noted); err != nil {
			return err
		}
	}
	return nil
}

// awaitEvery is how often writers are looked for.
const awaitEvery = 200 * time.Millisecond

// awaitWriters waits until no transaction that has written to the table is open. REINDEX would wait
// for it, after it has created its index.
func (x *rebuilding) awaitWriters(ctx context.Context, i index) error {
	for deadline := time.Now().Add(x.options.MaxSnapshotWait); ; {
		writers, err := lock.Writers(ctx, x.conn, i.TableOID)
		if err != nil || len(writers) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return &LockTimeoutError{Relation: i.table().String(), Attempts: 1, Waited: x.options.MaxSnapshotWait, Blockers: writers, Err: errWriters}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(awaitEvery):
		}
	}
}

// errWriters is the cause of a LockTimeoutError of awaitWriters.
var errWriters = errors.New("transactions that have written to the table are open")
