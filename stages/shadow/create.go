// Package shadow makes the shadow of a table, gives it what the table has, and puts it in the
// table's place. What must be done for each property of a table is in this package: in
// create.go before the rows are copied, in complete.go after it, in place.go when the
// tables are exchanged, and in artefacts.go at the end.
package shadow

import (
	"context"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/stages/throttle"
	"github.com/repack-go/repack/strategy"
)

// Builder makes the shadow of the job's table.
type Builder struct {
	*steps.Worker
	Strategy strategy.Strategy
	Jobs     int                // connections that build indexes at the same time, at most
	Throttle *throttle.Throttle // asked before each build
	// Order is the order of the rows, if they are copied in an order; or nil.
	Order func(context.Context) (catalog.Order, error)
	// MaintenanceWorkMem is the memory that an index build may use; empty: the setting of
	// the session.
	MaintenanceWorkMem string
}

// CreateSchemas creates the job's two schemas, to which other roles have no access. If an
// administrator has prepared schemas (--shadow-schema), it creates none.
func (b *Builder) CreateSchemas() []steps.Action {
	if !b.Job.OwnSchemas {
		return nil
	}
	shadow, old := catalog.Quote(b.Job.ShadowSchema), catalog.Quote(b.Job.OldSchema)
	return []steps.Action{
		steps.Send("CREATE SCHEMA "+shadow, "CREATE SCHEMA "+old),
		steps.RevokeAll(catalog.Made{Kind: "SCHEMA", Name: shadow}, catalog.Made{Kind: "SCHEMA", Name: old}),
	}
}

// CreateShadow creates the shadow, and sets its OID in the job. It also closes the change
// log and the capture function to other roles: one query finds what that takes.
func (b *Builder) CreateShadow() []steps.Action {
	shadow := b.Job.ShadowTable()
	return []steps.Action{
		steps.Send(b.shadowSQL()...),
		steps.RevokeAll(
			catalog.Made{Kind: "TABLE", Name: shadow.String()},
			catalog.Made{Kind: "TABLE", Name: b.Link.Log.String()},
			catalog.Made{Kind: "FUNCTION", Name: b.Link.Capture.String() + "()"},
		),
		steps.Send(append(b.identifySQL(shadow), b.Link.IdentifyLogSQL())...),
		steps.GiveToOwner(shadow, func() string { return b.Source.Owner }, func(oid uint32, toast bool) error {
			b.Job.Shadow = &oid
			return b.sameToast(toast)
		}),
	}
}

// CreateCapture creates the change log and the function that fills it. CreateShadow must
// follow.
func (b *Builder) CreateCapture(capture strategy.Capture) []steps.Action {
	return []steps.Action{steps.Send(b.Link.CreateLogSQL(), capture.Function)}
}

// Target describes the table that the shadow is to become. The shadow is built from it, and
// not from the source.
func (b *Builder) Target() *catalog.Table { return b.Alteration.Target(b.Source) }

// key returns the index of the target that identifies rows.
func (b *Builder) key() (catalog.Index, bool) {
	if b.Alteration != nil {
		return b.Target().Index(b.Alteration.KeyIndex)
	}
	return b.Source.Index(b.Job.KeyIndex)
}

// shadowSQL creates the shadow as the backfill needs it.
func (b *Builder) shadowSQL() []string {
	statements := b.Target().CreateSQL(b.Job.ShadowTable())
	statements = append(statements, b.Target().BoundSQL(b.Job.ShadowTable(), false)...)
	if b.Strategy.WritesThrough() {
		statements = append(statements, b.keySQL(b.Job.ShadowTable())...)
	}
	return statements
}

// Made describes the indexes and constraints that shadowSQL has created.
func (b *Builder) Made() *catalog.Table {
	t := &catalog.Table{Name: b.Job.ShadowTable()}
	if index, ok := b.key(); ok && b.Strategy.WritesThrough() {
		t.Indexes = []catalog.Index{index}
		if c, ok := b.Target().Constraint(index.Constraint); ok {
			t.Constraints = []catalog.Constraint{c}
		}
	}
	return t
}

// keySQL builds the key's index on an empty shadow. If the index belongs to a constraint, it
// adds the constraint.
func (b *Builder) keySQL(shadow catalog.Name) []string {
	index, _ := b.key()
	statements := []string{
		"SET LOCAL default_tablespace = " + catalog.Literal(index.Tablespace),
		index.CreateSQL(shadow),
		"SET LOCAL default_tablespace = ''",
	}
	if c, ok := b.Target().Constraint(index.Constraint); ok {
		statements = append(statements, c.AddSQL(shadow))
	}
	return statements
}

// sameToast refuses a table that has options for a TOAST table which a new table with its
// columns would not have. This happens when the only wide column has been dropped.
func (b *Builder) sameToast(there bool) error {
	if there || len(b.Target().ToastOptions) == 0 {
		return nil
	}
	return &checks.RefusedError{Table: b.Source.Name, Reasons: []checks.Reason{{
		Object: "toast options", Why: "belong to a TOAST table that the table's columns have no need of",
		Remedy: "ALTER TABLE … RESET (toast.…) first",
	}}}
}

// identifySQL gives the shadow a replica identity until it has that of the source: without
// one, rows of a table that is published cannot be updated or deleted, neither by us nor by
// the triggers of a writer. A shadow that has its key from the beginning is identified by
// it. This does not depend on publishedOK, because a publication can be created at any time.
//
// It takes ACCESS EXCLUSIVE on the shadow.
func (b *Builder) identifySQL(shadow catalog.Name) []string {
	index, _ := b.key()
	switch {
	case !b.Strategy.WritesThrough():
		return []string{catalog.ReplicaIdentity{Kind: "f"}.SQL(shadow.String())}
	case index.Primary:
		return nil
	default:
		return []string{catalog.ReplicaIdentity{Kind: "i", Index: index.Name}.SQL(shadow.String())}
	}
}

// marksSQL is MarksSQL of the source, for a shadow that may have the replica identity of
// identifySQL.
func (b *Builder) marksSQL(shadow catalog.Name) []string {
	statements := b.Target().MarksSQL(shadow)
	if identity := b.Target().ReplicaIdentity; identity.Kind == "d" && len(b.identifySQL(shadow)) > 0 {
		statements = append(statements, identity.SQL(shadow.String()))
	}
	return statements
}
