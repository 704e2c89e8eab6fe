package shadow

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/steps"
)

// Completion gives the shadow what it lacks when its indexes are built. shadow is its
// description, which a run reads first.
func (b *Builder) Completion(shadow *catalog.Table) steps.Transaction {
	name := b.Job.ShadowTable()
	lacks := steps.Statements(func() []string { return b.lacksSQL(shadow) })
	return steps.Transaction{
		Does: "give the shadow its constraints and statistics objects",
		Actions: []steps.Action{
			steps.RoomForOurs(name),
			steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error {
				built, err := catalog.Read(ctx, tx, *b.Job.Shadow)
				if err == nil {
					*shadow = *built
				}
				return err
			}),
			{
				Run: func(ctx context.Context, tx *lock.Tx) error { return b.execBuilds(ctx, tx, lacks()) },
				SQL: lacks.SQL,
			},
			steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error { return b.EndStage(ctx, tx, registry.SyncSchema) }),
		},
	}
}

// DropKeySQL drops the key of the shadow if it was filled row by row. Such an index ends up
// half empty, so a key built in bulk like the others replaces it. DropKeySQL returns no
// statement if the rows were copied without a key.
func (b *Builder) DropKeySQL() []string {
	made := b.Made().Indexes
	if len(made) == 0 {
		return nil
	}
	if constraint := made[0].Constraint; constraint != "" {
		return []string{fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s", b.Job.ShadowTable(), catalog.Quote(constraint))}
	}
	return []string{steps.DropSQL("INDEX", catalog.Name{Schema: b.Job.ShadowSchema, Name: made[0].Name}.String())}
}

// missingIndexes returns the indexes that shadow, as its description shows, lacks. Exclusion and
// temporal constraints create their own indexes.
func (b *Builder) missingIndexes(shadow *catalog.Table) []catalog.Index {
	source := b.Target()
	return slices.DeleteFunc(slices.Clone(source.Indexes), func(i catalog.Index) bool {
		_, there := shadow.Index(i.Name)
		c, constrained := source.Constraint(i.Constraint)
		return there || constrained && !c.FromIndex()
	})
}

// execBuilds runs ExecAll, but sends a statement that builds an index on its own. Then the
// statement of the session tells Builds which index is being built.
func (b *Builder) execBuilds(ctx context.Context, tx pgx.Tx, statements []string) error {
	isBuild := func(sql string) bool {
		return slices.ContainsFunc(b.Target().Constraints, func(c catalog.Constraint) bool {
			return !c.FromIndex() && c.AddSQL(b.Job.ShadowTable()) == sql
		})
	}
	for len(statements) > 0 {
		n := slices.IndexFunc(statements, isBuild)
		if n < 0 {
			n = len(statements)
		}
		next := min(n+1, len(statements))
		if err := steps.ExecAll(ctx, tx, statements[:n]); err != nil {
			return err
		}
		if err := steps.ExecAll(ctx, tx, statements[n:next]); err != nil {
			return err
		}
		statements = statements[next:]
	}
	return nil
}

// indexSQL builds an index of the shadow.
func (b *Builder) indexSQL(index catalog.Index) []string {
	return []string{
		"SET LOCAL default_tablespace = " + catalog.Literal(index.Tablespace),
		index.CreateSQL(b.Job.ShadowTable()),
	}
}

// constraintsSQL adds the key, unique and exclusion constraints that shadow lacks, as its
// description shows. A finished index of shadow becomes the index of its constraint.
func (b *Builder) constraintsSQL(shadow *catalog.Table) []string {
	var statements []string
	for _, c := range b.Target().Constraints {
		if _, there := shadow.Constraint(c.Name); there || c.Type == "c" || c.Type == "n" {
			continue
		}
		if !c.FromIndex() {
			statements = append(statements, steps.MemorySQL(b.MaintenanceWorkMem)...)
		}
		index, _ := b.Target().Index(c.Name)
		statements = append(statements,
			"SET LOCAL default_tablespace = "+catalog.Literal(index.Tablespace),
			c.AddSQL(b.Job.ShadowTable()))
	}
	return append(statements, "SET LOCAL default_tablespace = ''")
}

// statisticsSQL creates the extended statistics objects that shadow lacks, as its
// description shows.
func (b *Builder) statisticsSQL(shadow *catalog.Table) []string {
	var statements []string
	for _, s := range b.Target().Statistics {
		if slices.ContainsFunc(shadow.Statistics, func(o catalog.Statistics) bool { return o.Name.Name == s.Name.Name }) {
			continue
		}
		statements = append(statements, s.CreateSQL(b.Job.ShadowTable())...)
	}
	return statements
}

// CompleteSQL returns all that sync_schema does with the shadow, for a shadow that has only
// what CreateShadow gives it.
func (b *Builder) CompleteSQL() (statements []string) {
	made := b.Made()
	for _, index := range b.missingIndexes(made) {
		statements = append(statements, b.indexSQL(index)...)
	}
	return slices.Concat(statements, b.lacksSQL(made))
}

// lacksSQL returns what a shadow lacks, as its description shows it, when its indexes are
// built. Statistics objects are created before the shadow is analysed.
func (b *Builder) lacksSQL(shadow *catalog.Table) []string {
	return slices.Concat(b.constraintsSQL(shadow), b.marksSQL(b.Job.ShadowTable()), b.statisticsSQL(shadow))
}
