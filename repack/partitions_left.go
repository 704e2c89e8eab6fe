package repack

import (
	"context"
	"errors"
	"fmt"

	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
)

// errNoPartition reports that a table is no longer the partition that it was when the
// partitions were listed.
var errNoPartition = errors.New("it is no partition any more")

// partition repacks one partition, or checks whether it would be refused. If the table
// is no longer a partition, it is left alone, and what its job has created is removed.
//
// A session may drop or detach the partition at any moment, and the server then fails
// in many ways. So partition does not look at the error but at the table: before the
// work, and again if the work fails.
func (p *partitioned) partition(ctx context.Context, l partition, work func() error) error {
	left, err := p.left(ctx, l)
	if err != nil {
		return err
	}
	if !left {
		if err = work(); err == nil || ctx.Err() != nil {
			return err
		}
		var lookErr error
		if left, lookErr = p.left(ctx, l); lookErr != nil || !left {
			return errors.Join(err, lookErr)
		}
	}
	p.options.Logger.Warn("partition is none any more, and left alone", "table", l.Name.String(), "reason", err)
	return p.settle(ctx, l)
}

// While a partition is being detached concurrently, some sessions still see it in
// pg_partition_tree. inhdetachpending says so.
const stillSQL = `
SELECT EXISTS (
    SELECT FROM pg_partition_tree($1::oid::regclass) t
    JOIN   pg_class c     ON c.oid = t.relid
    JOIN   pg_namespace n ON n.oid = c.relnamespace
    WHERE  c.oid = $2 AND n.nspname = $3 AND c.relname = $4
    AND    NOT EXISTS (SELECT FROM pg_partition_ancestors(c.oid) a
                       JOIN   pg_inherits i ON i.inhrelid = a.relid AND i.inhdetachpending))`

// left reports whether the partition has been dropped, detached or renamed since the
// partitions were listed. After the swap the partition is the job's new table.
func (p *partitioned) left(ctx context.Context, l partition) (bool, error) {
	job, err := p.job(ctx, p.conn, l.OID, l.Name)
	if err != nil {
		return false, err
	}
	oid := l.OID
	switch {
	case job == nil:
	case job.Swapped():
		oid = *job.Shadow
	default: // the job may be of another table, which one of the same name has replaced
		oid = job.Source
	}
	var still bool
	if err := p.conn.QueryRow(ctx, stillSQL, p.oid, oid, l.Name.Schema, l.Name.Name).Scan(&still); err != nil {
		return false, fmt.Errorf("look whether %s is a partition: %w", l.Name, err)
	}
	return !still, nil
}

// settle ends the job of a table that is no longer a partition. Before the swap the job
// is reset. After the swap clean_up drops the old table.
func (p *partitioned) settle(ctx context.Context, l partition) error {
	job, err := p.job(ctx, p.conn, l.OID, l.Name)
	if err != nil || job == nil {
		return err
	}
	if job.Swapped() {
		last := p.each(l)
		last.options.Until = CleanUp
		err = last.runTable(ctx)
	} else {
		inverse := stages.Reset
		if job.State == registry.Reverting {
			inverse = stages.Revert
		}
		err = p.each(l).undoTable(ctx, inverse)
	}
	if err != nil {
		return fmt.Errorf("remove what is left of the job of %s, which is no partition any more: %w", l.Name, err)
	}
	return nil
}

// withLeft adds the tables that have an unfinished job in this repack, or had one of their
// own and are gone, and that are not in the list of partitions. whole is 0 if there is no
// repack of the partitioned table.
func (p *partitioned) withLeft(ctx context.Context, whole int64) error {
	jobs, err := p.registry.JobsOfPartitioned(ctx, p.conn, whole, p.oid)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		known := false
		for _, l := range p.partitions {
			known = known || l.OID == j.Source || j.Shadow != nil && l.OID == *j.Shadow
		}
		if !known {
			p.partitions = append(p.partitions, partition{OID: j.Source, Name: j.Table()})
		}
	}
	return nil
}
