package repack

import (
	"context"
	"errors"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
)

// PlannedTable is a table of a selection, and what a run would do with it.
type PlannedTable struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	// SizeBytes is its size with indexes and TOAST. WastedBytes is what a run is expected to
	// free, by statistics; nil if that is not known. DiskBytes is the space that a run needs
	// meanwhile; nil if the table is refused or partitioned.
	SizeBytes   int64  `json:"size_bytes"`
	WastedBytes *int64 `json:"wasted_bytes"`
	DiskBytes   *int64 `json:"disk_bytes"`
	// Refused says why the table cannot be repacked. It is empty if it can.
	Refused string `json:"refused"`
}

// PlanBatch lists the tables that RunBatch would choose, in its order, and changes nothing. Of a
// batch that has not ended, it lists those that are still to be done.
func (r *Repack) PlanBatch(ctx context.Context, b Batch) ([]PlannedTable, error) {
	limits, err := b.limits()
	if err != nil {
		return nil, err
	}
	conn, err := session.ConnectAsIs(ctx, r.config)
	if err != nil {
		return nil, err
	}
	defer session.Close(ctx, conn)
	chosen, err := r.choose(ctx, conn, b.Selection)
	if err != nil {
		return nil, err
	}
	if len(chosen) == 0 {
		return nil, ErrNothingChosen
	}
	if err := session.Configure(ctx, conn); err != nil {
		return nil, err
	}
	if chosen, err = b.filter(ctx, conn, chosen, limits); err != nil {
		return nil, err
	}
	if err := estimate(ctx, conn, chosen); err != nil {
		return nil, err
	}
	list := []PlannedTable{}
	for _, c := range chosen {
		planned, err := r.planned(ctx, c)
		if err != nil {
			return nil, err
		}
		list = append(list, planned)
	}
	return list, nil
}

// planned plans one table.
func (r *Repack) planned(ctx context.Context, c Chosen) (PlannedTable, error) {
	p := PlannedTable{Schema: c.Name.Schema, Name: c.Name.Name, SizeBytes: c.Bytes}
	if c.estimate != nil && c.estimate.Heap.Needed != nil {
		wasted, _ := c.wasted()
		bytes := int64(wasted)
		p.WastedBytes = &bytes
	}
	one := *r
	one.tenure, one.options.Table = newTenure(), c.Name.String()
	if c.partitioned {
		return p, nil
	}
	plan, err := one.Plan(ctx)
	var refused *RefusedError
	if errors.As(err, &refused) {
		p.Refused = err.Error()
		return p, nil
	}
	if err != nil {
		return p, err
	}
	p.DiskBytes = &plan.Disk.AtMost
	return p, nil
}

// BatchStatus says how far a batch is that a table belongs to.
type BatchStatus struct {
	ID int64 `json:"id"`
	// Tables and Bytes are those of the batch, Done and BytesDone those that need not be done any
	// more. Bytes are sizes before.
	Tables    int   `json:"tables"`
	Done      int   `json:"done"`
	Bytes     int64 `json:"bytes"`
	BytesDone int64 `json:"bytes_done"`
}

// batchOf returns the unfinished batch that a table belongs to, or nil.
func batchOf(open []registry.Batch, table catalog.Name) *BatchStatus {
	for _, b := range open {
		s := &BatchStatus{ID: b.ID, Tables: len(b.Tables)}
		is := false
		for _, t := range b.Tables {
			is = is || t.Name() == table
			s.Bytes += t.Bytes
			if t.Result != nil {
				s.Done, s.BytesDone = s.Done+1, s.BytesDone+t.Bytes
			}
		}
		if is {
			return s
		}
	}
	return nil
}
