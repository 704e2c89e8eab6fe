package steps

import (
	"context"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/oids"
	"github.com/repack-go/repack/strategy"
)

// Request is a worker with what the user asks of the job.
type Request struct {
	*Worker

	Strategy     strategy.Strategy
	ShadowSchema string // empty: the job has schemas of its own
	KeepOld      bool
	// RebuildMatviews allows materialized views on the table, and has them rebuilt.
	RebuildMatviews bool
	UpdateOID       []registry.OIDColumn // columns with OIDs of the table, to be updated when it has a new OID
	IgnoreOID       bool                 // allows other tables to store OIDs of the table
	PublishedOK     bool                 // allows publications FOR ALL TABLES
	OrderBy         string               // order of the copied rows: see catalog.ReadOrder; empty: as they come
	// Alter is what to change of the table: what the job was begun with, or what the user
	// asks for if there is no job yet.
	Alter alter.Request
	// Member is set if the tables of a cascade are gone through, in an order in which none of
	// them is narrower than another needs it.
	Member bool
	// Partitioned is the ID of the repack of the partitioned table that this job is a
	// part of.
	Partitioned *int64
}

// Clone returns a request whose job, source and link can be replaced without r.
func (r *Request) Clone() Request {
	c := *r
	c.Worker = r.clone()
	return c
}

// Rebuilds reports whether materialized views may be rebuilt.
func (r *Request) Rebuilds() bool {
	return r.RebuildMatviews || r.Job != nil && r.Job.Options.RebuildMatviews
}

// MayBePublished reports whether the user has allowed publications FOR ALL TABLES.
func (r *Request) MayBePublished() bool {
	return r.PublishedOK || r.Job != nil && r.Job.Options.PublishedOK
}

// Allowed says which checks do not apply.
func (r *Request) Allowed() checks.Allowed {
	return checks.Allowed{Matviews: r.Rebuilds(), Published: r.MayBePublished()}
}

// StoredOIDs returns how this job searches for OIDs that are stored as data.
func (r *Request) StoredOIDs() oids.Search {
	s := oids.Search{
		Pool: r.Pool, Table: r.Source.Name, Timeout: r.Locks.Timeout, Matviews: []uint32{},
		Without: []string{r.Registry.Schema()}, Update: r.UpdateOID, Ignore: r.IgnoreOID,
	}
	if r.Rebuilds() {
		for _, m := range r.Source.Matviews {
			s.Matviews = append(s.Matviews, m.OID)
		}
	}
	s.Without = append(s.Without, r.Prepared()...)
	if r.Job != nil {
		s.Without = append(s.Without, r.Job.ShadowSchema, r.Job.OldSchema)
		s.Update, s.Ignore = r.Job.Options.UpdateOID, r.IgnoreOID || r.Job.Options.IgnoreOID
	}
	return s
}

// Prepared returns the schemas that an administrator has prepared for the job: those of the
// shadow and of the old table. It is empty, and not nil, if the job has schemas of its own.
func (r *Request) Prepared() []string {
	if r.ShadowSchema == "" {
		return []string{}
	}
	return []string{r.ShadowSchema, r.ShadowSchema + "_old"}
}

// JobNumbered names a job's artefacts. The schemas have the job's number. The log and the
// function have it too, because otherwise the table itself could have the same name. If the
// table uses the log's name all the same, underscores are added to it.
func (r *Request) JobNumbered(number string) *registry.Job {
	job := &registry.Job{
		TableSchema: r.Source.Name.Schema, TableName: r.Source.Name.Name, Source: r.Source.OID,
		Strategy: r.Strategy.Name(), Options: registry.Options{KeepOld: r.KeepOld, RebuildMatviews: r.RebuildMatviews, PublishedOK: r.PublishedOK, OrderBy: r.OrderBy}.WithOIDs(r.UpdateOID, r.IgnoreOID),
		Partitioned: r.Partitioned,
		Stage:       registry.Setup, StageDone: true, State: registry.Active,
		ShadowSchema: "repack_job_" + number, OldSchema: "repack_job_" + number + "_old", OwnSchemas: true,
		ChangeLog: "repack_change_log_" + number, Capture: CapturePrefix + number,
	}
	if prepared := r.Prepared(); len(prepared) > 0 {
		job.ShadowSchema, job.OldSchema, job.OwnSchemas = prepared[0], prepared[1], false
	}
	for r.Source.HasName(job.ChangeLog) || r.Source.HasName(strategy.RetiredName(job.ChangeLog)) {
		job.ChangeLog += "_"
	}
	return job
}

// Order returns the order in which rows are copied, if one was asked for.
func (r *Request) Order(ctx context.Context) (catalog.Order, error) {
	if r.OrderBy == "" {
		return catalog.Order{}, nil
	}
	return catalog.ReadOrder(ctx, r.Pool, r.Source, r.OrderBy)
}
