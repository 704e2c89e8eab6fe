package steps

import (
	"strings"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/strategy"
)

// SetLink sets the direction of the changes, from the table in use to its copy: before the
// swap from the source to the shadow, after it from the new table to the old one.
func (w *Worker) SetLink(key []catalog.KeyColumn) {
	j := w.Job
	w.Link = strategy.NewLink(w.Source, key, j.Table(), j.ShadowTable(),
		catalog.Name{Schema: j.ShadowSchema, Name: j.ChangeLog}, catalog.Name{Schema: j.ShadowSchema, Name: j.Capture})
	w.Link.PerRow = w.Link.PerRow || j.Options.RowTriggers
	w.Link.Counted = j.Options.CountRows
	w.Link.Rows = j.Options.RowByRow
	w.Alteration.Link(w.Link, w.Source)
	if j.Swapped() {
		w.Link = w.Link.Reverse(j.Table(), j.OldTable())
	}
}

// beforeKeys sets link for the time after the exchange: changes are made before the server's
// triggers for foreign keys. The old keys lead to the old table then, and they are checked
// within a statement.
func (w *Worker) beforeKeys(link *strategy.Link) *strategy.Link {
	if link.Rows != "" {
		link.Rows = registry.BeforeKeys
	}
	return link
}

// InUse returns the OID of the table in use.
func (w *Worker) InUse() uint32 {
	if w.Job.Swapped() {
		return *w.Job.Shadow
	}
	return w.Job.Source
}

// Copied returns the OID of the copy of the table in use.
func (w *Worker) Copied() uint32 {
	if w.Job.Swapped() {
		return w.Job.Source
	}
	return *w.Job.Shadow
}

// Reverse returns the link from the table in use to the old table, as it is after the
// exchange of the swap.
func (w *Worker) Reverse() *strategy.Link {
	if w.Job.Swapped() {
		return w.Link
	}
	link := *w.Link
	link.Rows = w.Job.Options.RowByRow
	return w.beforeKeys(link.Reverse(w.Job.Table(), w.Job.OldTable()))
}

// Forward returns the link from the old table, back in use, to the shadow.
func (w *Worker) Forward() *strategy.Link {
	return w.beforeKeys(w.Link.Reverse(w.Job.Table(), w.Job.ShadowTable()))
}

// Concurrent reports whether the application writes to the copy, through the capture
// function. This is so from the switch to write-through on.
func (w *Worker) Concurrent() bool { return w.Job.CompletedBy != nil }

// StopWriters takes SHARE ROW EXCLUSIVE on the table that the application writes to. Every
// transaction that has written to it has ended, and no transaction can write until the end
// of the one that does this.
func (w *Worker) StopWriters() []Action {
	return AcquireSettled("SHARE ROW EXCLUSIVE", func() string { return w.Link.From.String() })
}

// Places returns the schema of the job in which successors of materialized views are built,
// and the one to which the replaced ones are moved. The latter has the replaced table.
func (w *Worker) Places() (built, parked string) {
	if w.Job.Swapped() {
		return w.Job.ShadowSchema, w.Job.OldSchema
	}
	return w.Job.OldSchema, w.Job.ShadowSchema // reverting
}

// Moving returns t with only those foreign keys that the exchange moves itself.
func (w *Worker) Moving(t *catalog.Table) *catalog.Table {
	if w.Job.Options.RowByRow == "" {
		return t
	}
	return t.WithKeys(catalog.ForeignKey.SelfReference)
}

// CapturePrefix is how the name of a capture function begins. The job's number follows.
const CapturePrefix = "repack_capture_"

// Number returns the job's number as the names of its artefacts have it.
func (w *Worker) Number() string { return strings.TrimPrefix(w.Job.Capture, CapturePrefix) }
