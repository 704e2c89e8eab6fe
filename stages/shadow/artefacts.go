package shadow

import (
	"slices"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/steps"
)

// DropArtefacts sends statements. Then it drops the capture function, the change log and
// the job's own schemas, except keep. If a user has created an object of their own in one
// of the schemas, the schema is not dropped, and the error names the object.
func (b *Builder) DropArtefacts(keep string, statements ...string) steps.Action {
	return steps.Send(append(statements, b.DropArtefactsSQL(keep)...)...)
}

// DropArtefactsSQL returns the statements of DropArtefacts.
func (b *Builder) DropArtefactsSQL(keep string) []string {
	statements := []string{
		steps.DropSQL("FUNCTION", b.Link.Capture.String()+"()"),
		steps.DropSQL("TABLE", b.Link.Log.String()+", "+b.Link.Retired().String()),
	}
	schemas := []string{b.Job.ShadowSchema, b.Job.OldSchema}
	statements = append(statements, b.Source.DropBoundDomainsSQL(schemas...)...)
	for _, schema := range schemas {
		if b.Job.OwnSchemas && schema != keep {
			statements = append(statements, steps.DropSQL("SCHEMA", catalog.Quote(schema)))
		}
	}
	return statements
}

// dropSequencesSQL drops the sequences of columns that the job has dropped, as DROP COLUMN does.
func (b *Builder) dropSequencesSQL() []string {
	if b.Alteration == nil {
		return nil
	}
	var statements []string
	kept := b.Target().Sequences
	for _, s := range b.Source.Sequences {
		is := func(o catalog.Sequence) bool { return o.Name == s.Name }
		if !s.Identity && !slices.ContainsFunc(kept, is) {
			statements = append(statements, steps.DropSQL("SEQUENCE", s.Name.String()))
		}
	}
	return statements
}

// DisposeSQL drops the old table and the functions of its row type. If the old table is to
// be kept, DisposeSQL drops only these functions, what may call them, and its user
// triggers, which are disabled. Then the old table depends on no object of the application.
func (b *Builder) DisposeSQL() []string {
	old, statements := b.Job.OldTable().String(), b.Source.DropTypedSQL(b.Job.OldTable())
	if !b.Job.Options.KeepOld {
		return slices.Concat(statements, []string{steps.DropSQL("TABLE", old)}, b.dropSequencesSQL())
	}
	statements = append(statements, b.Source.DropBoundSQL(b.Job.OldTable())...)
	for _, t := range b.Source.Triggers {
		statements = append(statements, steps.DropSQL("TRIGGER", catalog.Quote(t.Name)+" ON "+old))
	}
	return statements
}
