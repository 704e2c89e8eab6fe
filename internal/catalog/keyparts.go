package catalog

import (
	"fmt"
	"slices"
	"strings"
)

// AddKeySQL returns statements that add a foreign key of t or to t. Parts of the new
// key get the names and comments that they have in t. Locks are those of
// ForeignKey.AddSQL, and of RENAME CONSTRAINT (ACCESS EXCLUSIVE) on the tables of
// renamed parts.
func (t *Table) AddKeySQL(key ForeignKey) []string {
	statements := append([]string{key.AddSQL()}, key.CommentSQL()...)
	return append(statements, t.keyPartsSQL(func(p KeyPart) bool { return p.of(key) })...)
}

// Readded returns the parts of those keys that an exchange drops and adds again.
func (t *Table) Readded() []KeyPart {
	return slices.DeleteFunc(slices.Clone(t.KeyParts), func(p KeyPart) bool { return !t.readds(p) })
}

// readds reports whether the part belongs to a key that the exchange drops and adds
// again. A key that the partitioned table has declared is not one.
func (t *Table) readds(part KeyPart) bool {
	return slices.ContainsFunc(t.AllForeignKeys(), part.of)
}

func (p KeyPart) of(key ForeignKey) bool { return p.KeyTable == key.Table && p.Key == key.Name }

// namePartsSQL renames the parts of keys. The server has numbered them in the order of
// the partitions' bounds, which may not be the order in which they were created. Two
// parts may have to exchange their names, so the first round gives all of them
// temporary names.
const namePartsSQL = `
DECLARE
    part record;
BEGIN
    FOR round IN 1..2 LOOP
        FOR part IN
            WITH RECURSIVE wanted (key_table, key, part_table, referenced, name) AS (VALUES
                %s),
            family (id, key_table, key) AS (
                SELECT c.oid, w.key_table, w.key
                FROM  (SELECT DISTINCT key_table, key FROM wanted) w
                JOIN   pg_constraint c
                ON     c.conrelid = w.key_table::regclass::oid
                AND    c.conname = w.key::name AND c.contype = 'f'
                UNION ALL
                SELECT c.oid, f.key_table, f.key
                FROM   family f
                JOIN   pg_constraint c ON c.conparentid = f.id AND c.conparentid > 0
            )
            SELECT   w.part_table AS relation, c.conname AS is_named,
                     CASE round WHEN 1 THEN 'repack_part_' || c.oid ELSE w.name END AS name
            FROM     wanted w
            JOIN     family f USING (key_table, key)
            JOIN     pg_constraint c
            ON       c.oid = f.id
            AND      c.conrelid = w.part_table::regclass::oid
            AND      c.confrelid = w.referenced::regclass::oid
            WHERE    c.conname <> w.name::name
            ORDER BY c.oid
        LOOP
            EXECUTE format('ALTER TABLE %%s RENAME CONSTRAINT %%I TO %%I', part.relation, part.is_named, part.name);
        END LOOP;
    END LOOP;
END`

// keyPartsSQL returns statements that rename those of t's parts that exist again, and
// comment on them.
func (t *Table) keyPartsSQL(these func(KeyPart) bool) []string {
	var wanted, comments []string
	for _, p := range t.KeyParts {
		if !these(p) {
			continue
		}
		wanted = append(wanted, fmt.Sprintf("(%s, %s, %s, %s, %s)", Literal(p.KeyTable.String()), Literal(p.Key),
			Literal(p.Table.String()), Literal(p.Referenced.String()), Literal(p.Name)))
		comments = append(comments, comment("CONSTRAINT "+Quote(p.Name)+" ON "+p.Table.String(), p.Comment)...)
	}
	if len(wanted) == 0 {
		return nil
	}
	body := fmt.Sprintf(namePartsSQL, strings.Join(wanted, ",\n                "))
	return append([]string{doSQL(body)}, comments...)
}

// CheckSQL returns a query that counts the rows of table on whose key refers to no row.
// It joins the tables as the server does when it attaches a partition. It takes ACCESS
// SHARE on both tables.
func (f ForeignKey) CheckSQL(on Name) string {
	only, and := "ONLY ", " AND "
	if f.RefPartitioned {
		only = ""
	}
	if f.Match == "f" {
		and = " OR "
	}
	set := make([]string, len(f.Columns))
	for i, c := range f.Columns {
		set[i] = "fk." + Quote(c) + " IS NOT NULL"
	}
	return fmt.Sprintf("SELECT count(*) FROM ONLY %s fk LEFT JOIN %s%s pk ON %s WHERE pk.%s IS NULL AND (%s)", on, only,
		f.Referenced, strings.Join(f.Conditions, " AND "), Quote(f.RefColumns[0]), strings.Join(set, and))
}
