package catalog

import (
	"context"
	"fmt"
	"slices"
)

// Matview describes a materialized view that reads the table, or that reads another
// such materialized view. It reads the table by OID: it stays with that table when
// another one gets its name.
type Matview struct {
	OID       uint32 `json:"oid"`
	Query     string `json:"query"` // pg_get_viewdef, with the names at the time of reading
	Populated bool   `json:"populated"`
	Read      bool   `json:"read"` // by another materialized view
	// Relation is everything else about it, described as a table.
	Relation *Table `json:"relation"`
}

// matviewsSQL finds the materialized views that read relation $1. Each one comes after
// those that it reads. One that reads a view of the table is not found: views are
// replaced in place, so it need not be rebuilt.
const matviewsSQL = `
WITH RECURSIVE found (oid, depth, reads) AS (
    SELECT $1::oid, 0, 0::oid
    UNION
    SELECT r.ev_class, f.depth + 1, f.oid
    FROM   found f
    JOIN   pg_depend d  ON d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = f.oid
    JOIN   pg_rewrite r ON r.oid = d.objid AND r.ev_class <> f.oid
    WHERE  'm' = (SELECT c.relkind FROM pg_class c WHERE c.oid = r.ev_class)
)
SELECT   c.oid                             AS oid,
         rtrim(pg_get_viewdef(c.oid), ';') AS query,
         c.relispopulated                  AS populated,
         f.read                            AS read
FROM    (SELECT   oid, max(depth) AS depth, oid IN (SELECT reads FROM found) AS read
         FROM     found
         WHERE    depth > 0
         GROUP BY oid) f
JOIN     pg_class c     ON c.oid = f.oid
JOIN     pg_namespace n ON n.oid = c.relnamespace
ORDER BY f.depth, n.nspname, c.relname`

func askMatviews(d *description) { wantAs(d, matviewsSQL, &d.Matviews) }

// Matviews describes the materialized views that read a table, or one another, in an
// order in which they can be created. It needs two round trips if there are any,
// otherwise one.
func Matviews(ctx context.Context, q Querier, oid uint32) ([]Matview, error) {
	t, err := describeOne(ctx, q, oid, []part{{"materialized views", askMatviews, 0}})
	if err != nil {
		return nil, err
	}
	return t.Matviews, ReadMatviews(ctx, q, t.Matviews)
}

// ReadMatviews describes the materialized views of the list (Relation), in one round
// trip, or two if one of them has extras. Their queries must already be there. It
// returns ErrNotFound if one of them has been dropped.
func ReadMatviews(ctx context.Context, q Querier, list []Matview) error {
	return readMatviews(ctx, q, list, nil)
}

// readMatviews is ReadMatviews. It needs one round trip if the materialized views have no
// other extras than those of like, and otherwise two.
func readMatviews(ctx context.Context, q Querier, list []Matview, like *Table) error {
	if len(list) == 0 {
		return nil
	}
	oids, likely := make([]uint32, len(list)), map[uint32]Extras{}
	for i, m := range list {
		oids[i] = m.OID
		if m.Read {
			likely[m.OID] |= OfDependents
		}
	}
	if like != nil {
		for _, m := range like.Matviews {
			likely[m.OID] |= m.Relation.Extras()
		}
	}
	relations, err := describeLikely(ctx, q, oids, everything, func(oid uint32) Extras { return likely[oid] })
	if err != nil {
		return err
	}
	for i, relation := range relations {
		relation.Rules = nil // the only rule is its query
		list[i].Relation = relation
	}
	return nil
}

// ReadMatview describes one materialized view without its query. It returns ErrNotFound
// if there is no such relation. It needs one round trip if the materialized view has no other
// extras than like, which describes it as it was, or the one that it replaces.
func ReadMatview(ctx context.Context, q Querier, oid uint32, like *Table) (*Table, error) {
	one := []Matview{{OID: oid}}
	err := readMatviews(ctx, q, one, &Table{Matviews: []Matview{{OID: oid, Relation: like}}})
	return one[0].Relation, err
}

// CreateSQL returns statements that create the materialized view without rows (WITH NO
// DATA) under the name as.
func (m Matview) CreateSQL(as Name) []string {
	r := m.Relation
	var columns []string
	for _, c := range r.Columns {
		columns = append(columns, c.Name)
	}
	create := fmt.Sprintf("CREATE MATERIALIZED VIEW %s (%s) USING %s", as, QuoteAll(columns), Quote(r.AccessMethod))
	if options := r.storageOptions(); options != "" {
		create += " WITH (" + options + ")"
	}
	if r.Tablespace != "" {
		create += " TABLESPACE " + Quote(r.Tablespace)
	}
	statements := []string{create + " AS\n" + m.Query + "\nWITH NO DATA"}
	for _, c := range r.Columns {
		if method := map[string]string{"p": "pglz", "l": "lz4"}[c.Compression]; method != "" {
			statements = append(statements, fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s SET COMPRESSION %s", as, Quote(c.Name), method))
		}
		statements = append(statements, c.settingsSQL(as)...)
	}
	return statements
}

// FinishSQL returns statements that give a materialized view that has its rows its
// indexes, the properties of MarksSQL and its statistics objects. CREATE INDEX takes
// SHARE on it.
func (m Matview) FinishSQL(as Name) []string {
	var statements []string
	for _, i := range m.Relation.Indexes {
		statements = append(statements, "SET LOCAL default_tablespace = "+Literal(i.Tablespace), i.CreateSQL(as))
	}
	statements = append(statements, "SET LOCAL default_tablespace = ''")
	statements = append(statements, m.Relation.MarksSQL(as)...)
	for _, s := range m.Relation.Statistics {
		statements = append(statements, s.CreateSQL(as)...)
	}
	return statements
}

// LockMatviewSQL returns a statement that takes ACCESS EXCLUSIVE on a materialized view
// and changes nothing. LOCK does not work on materialized views.
func LockMatviewSQL(r *Table) string {
	return fmt.Sprintf("ALTER MATERIALIZED VIEW %s OWNER TO %s", r.Name, Quote(r.Owner))
}

// SettleMatviewSQL returns a statement that takes SHARE UPDATE EXCLUSIVE on a
// materialized view. The caller must roll it back, because it sets a comment.
func SettleMatviewSQL(r *Table) string {
	return fmt.Sprintf("COMMENT ON MATERIALIZED VIEW %s IS 'locked'", r.Name)
}

// MoveMatviewSQL returns a statement that moves a materialized view and its indexes to
// another schema. It takes ACCESS EXCLUSIVE on it.
func MoveMatviewSQL(name Name, to string) string {
	return fmt.Sprintf("ALTER MATERIALIZED VIEW %s SET SCHEMA %s", name, Quote(to))
}

// ReplaceMatviewSQL returns statements that exchange a materialized view. r goes to
// schema parked; the one with the same bare name in schema built takes its place. It
// gets r's comments, and views that read r are replaced in place. Grants are not
// included. The statements take ACCESS EXCLUSIVE on both materialized views.
func ReplaceMatviewSQL(r *Table, built, parked string) []string {
	var statements []string
	for _, s := range r.Statistics {
		statements = append(statements, s.MoveSQL(s.Name.Schema, parked))
	}
	statements = append(statements, MoveMatviewSQL(r.Name, parked), MoveMatviewSQL(r.Name.In(built), r.Name.Schema))
	for _, s := range r.Statistics {
		statements = append(statements, s.MoveSQL(built, s.Name.Schema), s.OwnerSQL())
	}
	statements = append(statements, comment("MATERIALIZED VIEW "+r.Name.String(), r.Comment)...)
	rest := *r
	rest.Comment = ""
	statements = append(statements, rest.CommentsSQL()...)
	for _, d := range r.Dependents {
		statements = append(statements, d.ReplaceSQL()...)
	}
	return statements
}

// names returns the names of the table, its indexes and its sequences.
func (t *Table) names() []string {
	names := []string{t.Name.Name}
	for _, i := range t.Indexes {
		names = append(names, i.Name)
	}
	for _, s := range t.Sequences {
		names = append(names, s.Name.Name)
	}
	return names
}

// Clashes returns the names that occur twice among the table, its materialized views
// and their indexes, sequences and statistics objects. All of these must be in one
// schema, the job's.
func (t *Table) Clashes() []string {
	names := t.names()
	statistics := map[string]bool{}
	var twice []string
	note := func(r *Table) {
		for _, s := range r.Statistics {
			if statistics[s.Name.Name] {
				twice = append(twice, s.Name.Name)
			}
			statistics[s.Name.Name] = true
		}
	}
	note(t)
	for _, m := range t.Matviews {
		for _, name := range m.Relation.names() {
			if slices.Contains(names, name) {
				twice = append(twice, name)
			}
			names = append(names, name)
		}
		note(m.Relation)
	}
	slices.Sort(twice)
	return slices.Compact(twice)
}
