package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// alterFlags say what to change of the table while it is repacked.
func alterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{
			Name: "alter",
			Usage: "change the table while it is repacked: `ACTIONS` of ALTER TABLE, such as \"ALTER COLUMN amount TYPE numeric(12,2), DROP COLUMN legacy\", " +
				"or a whole ALTER TABLE statement (can be given several times)",
		},
		&cli.GenericFlag{
			Name: "to-bigint", Value: &bigintValue{},
			Usage: "make the key's integer columns and their sequences bigint: all of them, or those of `[=COLUMN,…]`, as SQL writes them",
		},
		&cli.StringSliceFlag{
			Name:  "set",
			Usage: "fill a column of the new table: `'COLUMN = EXPRESSION'`, evaluated on a row of the source, such as \"email = lower(email)\" (can be given several times)",
		},
		&cli.StringSliceFlag{
			Name: "down",
			Usage: "fill a column that only the old table has, for a revert: `'COLUMN = EXPRESSION'`, evaluated on a row that was inserted after the swap " +
				"(can be given several times; default: the column's default, or NULL)",
		},
		&cli.StringFlag{
			Name:  "column-order",
			Usage: "`ORDER` of the new table's columns: packed (loses the least space to alignment) or a list such as \"id, placed_at, *\", in which * stands for all others",
		},
		&cli.StringFlag{Name: "tablespace", Usage: "`TABLESPACE` to which the table moves (default: it stays where it is)"},
		&cli.StringFlag{Name: "index-tablespace", Usage: "`TABLESPACE` to which the table's indexes move (default: they stay where they are)"},
		&cli.StringSliceFlag{
			Name: "allow-lossy",
			Usage: "values of `COLUMN`, as SQL writes it, may lose a part when they are converted, such as digits after the point " +
				"(can be given several times; default: such a change is refused)",
		},
		&cli.StringFlag{
			Name: "views",
			Usage: "what becomes of a view that returns a column which gets another type: recreate (it is dropped in the swap and created again, with the views that read it) " +
				"or cast (its column keeps its type, by a cast) (default: such a view is refused)",
		},
		&cli.BoolFlag{Name: "recompress", Usage: "compress stored values again, with the method that their columns have: see ALTER COLUMN … SET COMPRESSION (default: they stay compressed as they are)"},
		&cli.BoolFlag{
			Name:  "cascade",
			Usage: "with --to-bigint: first make every column bigint that refers to the key, or to a column that does; each table in a job of its own, which repack revert of this table undoes, too",
		},
		&cli.BoolFlag{Name: "no-cascade", Usage: "leave columns that refer to the key narrower than the key (default: such a change is refused)"},
		&cli.BoolFlag{Name: "no-revert", Usage: "give up the way back: no write after the swap reaches the old table (default: a change from which there is no way back is refused)"},
	}
}

// bigintValue is the value of --to-bigint, which is given alone or as
// --to-bigint=COLUMN,….
type bigintValue struct {
	given   bool
	columns []string // empty: all integer columns of the key
}

// IsBoolFlag tells the flag package that the flag may stand alone. Then it is set to
// "true", which is no column: SQL would quote that name.
func (b *bigintValue) IsBoolFlag() bool { return true }

// Set adds the columns that are given.
func (b *bigintValue) Set(value string) error {
	b.given = true
	if value != "true" {
		b.columns = append(b.columns, splitNames(value)...)
	}
	return nil
}

// String returns the columns as they are given.
func (b *bigintValue) String() string { return strings.Join(b.columns, ",") }

// bigint returns the value of --to-bigint.
func bigint(c *cli.Context) bigintValue {
	if b, ok := c.Generic("to-bigint").(*bigintValue); ok {
		return *b
	}
	return bigintValue{} // the command does not have the flag
}

// splitNames splits a list of names, as SQL writes them, at the commas that are not
// within quotes.
func splitNames(list string) []string {
	var names []string
	begin, quoted := 0, false
	for i, c := range list {
		switch {
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			names = append(names, strings.TrimSpace(list[begin:i]))
			begin = i + 1
		}
	}
	return append(names, strings.TrimSpace(list[begin:]))
}
