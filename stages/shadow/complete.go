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
	lacks := steps.Statements(func() []string {
		// Create statistics objects before the shadow is analysed.
		return slices.Concat(b.ConstraintsSQL(shadow), b.MarksSQL(name), b.StatisticsSQL(shadow))
	})
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

// MemorySQL gives builds in the same transaction the memory that was asked for.
func (b *Builder) MemorySQL() []string {
	if b.MaintenanceWorkMem == "" {
		return nil
	}
	return []string{"SET LOCAL maintenance_work_mem = " + catalog.Literal(b.MaintenanceWorkMem)}
}

// MissingIndexes returns the indexes that shadow, as its description shows, lacks. Exclusion and
// temporal constraints create their own indexes.
func (b *Builder) MissingIndexes(shadow *catalog.Table) []catalog.Index {
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

// IndexSQL builds an index of the shadow.
func (b *Builder) IndexSQL(index catalog.Index) []string {
	return []string{
		"SET LOCAL default_tablespace = " + catalog.Literal(index.Tablespace),
		index.CreateSQL(b.Job.ShadowTable()),
	}
}

// ConstraintsSQL adds the key, unique and exclusion constraints that shadow lacks, as its
// description shows. A finished index of shadow becomes the index of its constraint.
func (b *Builder) ConstraintsSQL(shadow *catalog.Table) []string {
	var statements []string
	for _, c := range b.Target().Constraints {
		if _, there := shadow.Constraint(c.Name); there || c.Type == "c" || c.Type == "n" {
			continue
		}
		if !c.FromIndex() {
			statements = append(statements, b.MemorySQL()...)
		}
		index, _ := b.Target().Index(c.Name)
		statements = append(statements,
			"SET LOCAL default_tablespace = "+catalog.Literal(index.Tablespace),
			c.AddSQL(b.Job.ShadowTable()))
	}
	return append(statements, "SET LOCAL default_tablespace = ''")
}

// StatisticsSQL creates the extended statistics objects that shadow lacks, as its
// description shows.
func (b *Builder) StatisticsSQL(shadow *catalog.Table) []string {
	var statements []string
	for _, s := range b.Target().Statistics {
		if slices.ContainsFunc(shadow.Statistics, func(o catalog.Statistics) bool { return o.Name.Name == s.Name.Name }) {
			continue
		}
		statements = append(statements, s.CreateSQL(b.Job.ShadowTable())...)
	}
	return statements
}
