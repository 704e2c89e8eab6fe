package catalog

import (
	"fmt"
	"slices"
	"strings"
)

// PostgreSQL does not check the rows of a partition for a new foreign key of the
// partitioned table if the partition has such a key already, and that key is valid. It
// makes the partition's key the part of the new one. So a key can be added to a
// partitioned table without a scan under lock: first to each partition, NOT VALID, then
// each is validated, and then the key of the partitioned table adopts them.
//
// https://www.postgresql.org/docs/current/ddl-partitioning.html

// PartsOf returns the parts of key, one of t's, in t's order.
func (t *Table) PartsOf(key ForeignKey) []KeyPart {
	return slices.DeleteFunc(slices.Clone(t.KeyParts), func(p KeyPart) bool { return !p.of(key) })
}

// Alone returns the part as a key of the partition's own. key is the one that p is a part
// of.
func (p KeyPart) Alone(key ForeignKey) ForeignKey {
	key.Table, key.TableOwner, key.Partitioned = p.Table, p.TableOwner, p.Partitioned
	key.Name, key.Referenced, key.Comment = p.Name, p.Referenced, p.Comment
	key.Validated, key.DeleteColumns = p.Validated || key.Validated, p.DeleteColumns
	return key
}

// ActsLike reports whether both keys allow the same rows and have the same actions. It
// does not compare the tables, the names, when the keys are checked, or whether they are
// valid.
func (f ForeignKey) ActsLike(o ForeignKey) bool {
	return slices.Equal(f.Columns, o.Columns) && slices.Equal(f.RefColumns, o.RefColumns) && f.Match == o.Match &&
		f.OnUpdate == o.OnUpdate && f.OnDelete == o.OnDelete && slices.Equal(f.DeleteColumns, o.DeleteColumns) &&
		f.Enforced == o.Enforced && f.Period == o.Period
}

// adoptableSQL fails if not every partition is known, or if the key of one of them would
// not be adopted. The server would then look at all rows of that partition, under its
// lock. The error is undefined_object: the caller reads the catalog again.
const adoptableSQL = `
BEGIN
    IF EXISTS (SELECT FROM (VALUES %[3]s) w (relation, name)
               WHERE  w.relation IS NOT NULL
               AND    NOT EXISTS (SELECT FROM pg_constraint c
                                  WHERE  c.conrelid = w.relation::regclass AND c.conname = w.name::name AND c.contype = 'f'
                                  AND    c.confrelid = %[4]s::regclass AND c.conparentid = 0 AND (c.convalidated OR NOT %[5]t))) THEN
        RAISE EXCEPTION 'a partition of %% has no valid key yet', %[1]s USING ERRCODE = 'undefined_object';
    END IF;` + knownSQL

// knownSQL fails if not every partition is known.
const knownSQL = `
    IF EXISTS (SELECT FROM pg_partition_tree(%[1]s::regclass) t
               WHERE  t.level > 0 AND t.relid::oid <> ALL (ARRAY[%[2]s]::regclass[]::oid[])) THEN
        RAISE EXCEPTION 'a partition of %% is new', %[1]s USING ERRCODE = 'undefined_object';
    END IF;
END`

// KnownSQL returns a statement that fails with undefined_object, or with
// undefined_table, if table has another partition than those of parts.
func KnownSQL(table Name, parts []KeyPart) string {
	return doSQL(fmt.Sprintf("\nBEGIN"+knownSQL, Literal(table.String()), tablesOf(parts)))
}

// AdoptSQL returns statements that add key to its partitioned table, with the given
// parts. The partitions that are not partitioned themselves must have the keys of the
// parts already: validated, if key is valid. Otherwise the first statement fails with
// undefined_object, or with undefined_table.
//
// They take SHARE ROW EXCLUSIVE on the partitioned table, on its partitions and on the
// referenced table.
func (f ForeignKey) AdoptSQL(parts []KeyPart) []string {
	leaves := []string{"(NULL, NULL)"}
	for _, p := range parts {
		if !p.Partitioned && f.Enforced {
			leaves = append(leaves, fmt.Sprintf("(%s, %s)", Literal(p.Table.String()), Literal(p.Name)))
		}
	}
	statements := []string{
		doSQL(fmt.Sprintf(adoptableSQL, Literal(f.Table.String()), tablesOf(parts), strings.Join(leaves, ", "), Literal(f.Referenced.String()), f.Validated)),
	}
	if !f.Validated { // from PostgreSQL 18 on
		statements = append(statements, f.AddSQL())
	} else {
		statements = append(statements, f.addValidSQL())
	}
	for _, p := range parts {
		if p.Partitioned && p.Validated && !f.Validated { // the server has given this part the name of the key
			part := p.Alone(f)
			part.Name = f.Name
			statements = append(statements, part.ValidateSQL())
		}
	}
	return statements
}

// NamePartsSQL returns statements that give the parts of a key their names and comments.
func NamePartsSQL(parts []KeyPart) []string {
	t := &Table{KeyParts: parts}
	return t.keyPartsSQL(func(KeyPart) bool { return true })
}

func tablesOf(parts []KeyPart) string {
	tables := make([]string, len(parts))
	for i, p := range parts {
		tables[i] = Literal(p.Table.String())
	}
	return strings.Join(tables, ", ")
}

func doSQL(body string) string { return "DO LANGUAGE plpgsql " + Literal(body) }
