package repack

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
)

// A partitioned table has no rows of its own. To repack it means to repack its
// partitions, one after the other, each with a job of its own. The registry records
// which ones are done, so that a later run continues with the others.

// partition is a partition that has rows.
type partition struct {
	OID  uint32
	Name catalog.Name
}

// partitionsSQL lists the partitions that are not partitioned themselves. elsewhere tells
// that a partition is a foreign table: its rows are not in this database.
const partitionsSQL = `
SELECT   c.oid, n.nspname, c.relname, c.relkind = 'f' AS elsewhere
FROM     pg_partition_tree($1::oid::regclass) t
JOIN     pg_class c     ON c.oid = t.relid
JOIN     pg_namespace n ON n.oid = c.relnamespace
WHERE    t.isleaf
ORDER BY n.nspname, c.relname`

// partitioned is a partitioned table, and the connection that holds its advisory lock.
type partitioned struct {
	*Repack
	conn       *pgx.Conn
	oid        uint32
	name       catalog.Name
	partitions []partition
	foreign    []partition // foreign tables, which are left alone
}

// overPartitions lists the partitions of the table that v has found.
func (r *Repack) overPartitions(ctx context.Context, v *visit) (*partitioned, error) {
	p := &partitioned{Repack: r, conn: v.conn, oid: v.oid, name: v.name}
	rows, err := v.conn.Query(ctx, partitionsSQL, v.oid)
	if err != nil {
		return nil, fmt.Errorf("list partitions of %s: %w", v.name, err)
	}
	var l partition
	var elsewhere bool
	_, err = pgx.ForEachRow(rows, []any{&l.OID, &l.Name.Schema, &l.Name.Name, &elsewhere}, func() error {
		if elsewhere {
			p.foreign = append(p.foreign, l)
		} else {
			p.partitions = append(p.partitions, l)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list partitions of %s: %w", v.name, err)
	}
	return p, nil
}

// each returns the Repack of one partition.
func (p *partitioned) each(l partition) *Repack {
	r := *p.Repack
	r.options.Table = l.Name.String()
	return &r
}

// run repacks the partitions that are not done. Before that it makes sure that none of
// them will be refused.
func (p *partitioned) run(ctx context.Context) error {
	if err := registry.TryLock(ctx, p.conn, p.oid, p.name.String()); err != nil {
		return err
	}
	for _, l := range p.foreign {
		p.options.Logger.Warn("partition is a foreign table, whose rows are elsewhere, and left alone", "table", l.Name.String())
	}
	if len(p.partitions) == 0 {
		if len(p.foreign) == 0 {
			p.options.Logger.Warn("a partitioned table without partitions has no rows: there is nothing to do", "table", p.name.String())
		}
		if exists, err := p.registry.Exists(ctx, p.conn); err != nil || !exists {
			return err
		}
	}
	var refused error
	for _, l := range p.partitions {
		first := p.each(l)
		first.options.Until = PreValidate
		var refusal *RefusedError
		err := p.partition(ctx, l, func() error { return first.runTable(ctx) })
		if errors.As(err, &refusal) {
			refused = errors.Join(refused, err)
		} else if err != nil {
			return err
		}
	}
	if refused != nil || p.options.Until == PreValidate {
		return refused
	}
	if err := p.migrate(ctx); err != nil {
		return err
	}
	whole, err := p.registry.OpenPartitioned(ctx, p.conn, p.oid, p.name)
	if err != nil {
		return err
	}
	if err := p.withLeft(ctx, whole.ID); err != nil {
		return err
	}
	for _, l := range p.partitions {
		done, err := p.registry.DonePartition(ctx, p.conn, whole.ID, l.OID)
		if err != nil {
			return err
		}
		if done {
			p.options.Logger.Info("partition is done", "table", l.Name.String(), "since", whole.Began)
			continue
		}
		next := p.each(l)
		next.partitioned = &whole.ID
		if err := p.partition(ctx, l, func() error { return next.runTable(ctx) }); err != nil {
			return fmt.Errorf("partition %s: %w", l.Name, err)
		}
	}
	if p.options.Until != CleanUp {
		return nil
	}
	return p.registry.EndPartitioned(ctx, p.conn, whole.ID)
}

// undo ends the jobs of the partitions with inverse, and then the repack of the whole
// table. If it fails for one partition, it still tries the others.
func (p *partitioned) undo(ctx context.Context, inverse func(context.Context, *stages.Env) error) error {
	if err := registry.TryLock(ctx, p.conn, p.oid, p.name.String()); err != nil {
		return err
	}
	exists, err := p.registry.Exists(ctx, p.conn)
	if err != nil {
		return err
	}
	var whole registry.Partitioned
	if exists {
		if _, err := p.job(ctx, p.conn, p.oid, p.name); err != nil { // is it readable and up to date
			return err
		}
		var findErr error
		if whole, findErr = p.registry.FindPartitioned(ctx, p.conn, p.oid); findErr != nil && !errors.Is(findErr, registry.ErrNotFound) {
			return findErr
		}
		if err := p.withLeft(ctx, whole.ID); err != nil {
			return err
		}
	}
	var failed error
	found := false
	for _, l := range p.partitions {
		job, err := p.job(ctx, p.conn, l.OID, l.Name)
		if err != nil {
			return err
		}
		if job == nil {
			continue
		}
		found = true
		if err := p.each(l).undoTable(ctx, inverse); err != nil {
			failed = errors.Join(failed, fmt.Errorf("partition %s: %w", l.Name, err))
		}
	}
	if failed != nil {
		return failed
	}
	if whole.ID != 0 {
		return p.registry.EndPartitioned(ctx, p.conn, whole.ID)
	}
	if !found && p.resets {
		found, err = p.orphans(ctx, inverse)
	}
	if err != nil || found {
		return err
	}
	return p.noJob(ctx, p.conn, p.oid, p.name)
}

// plan returns the error that says that only a partition has a plan.
func (p *partitioned) plan() error {
	names := ""
	for _, l := range p.partitions {
		names += " " + l.Name.String()
	}
	left := ""
	for _, l := range p.foreign {
		left += " " + l.Name.String()
	}
	if left != "" {
		names += "; these are foreign tables, and left alone:" + left
	}
	return &UsageError{fmt.Errorf("%s is partitioned: repack run repacks one partition after the other, and each has a plan of its own:%s", p.name, names)}
}
