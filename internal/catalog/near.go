package catalog

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/xrash/smetrics"
)

// A name that is too much longer or shorter is not similar. Partitions are tables like
// others here.
const nearSQL = `
SELECT n.nspname, c.relname
FROM   pg_catalog.pg_class c
JOIN   pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE  c.relkind IN ('r', 'p')
AND    c.relpersistence <> 't'
AND    n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%' AND n.nspname NOT LIKE 'repack\_job\_%'
AND    abs(length(c.relname) - length($1)) <= $2
ORDER  BY lower(c.relname) = lower($1) DESC, n.nspname, c.relname
LIMIT  20000`

const (
	mostNear       = 3 // names to suggest
	lettersForSlip = 3 // one wrong letter is allowed for each of so many letters
	mostSlips      = 2
)

// Near lists the tables that a user may have meant by name, the most similar first, at
// most three. These are tables with that name in another schema or in other case, and
// tables whose name differs in one or two letters. It takes no lock on any table.
func Near(ctx context.Context, q Querier, name Name) ([]Name, error) {
	rows, err := q.Query(ctx, nearSQL, name.Name, mostSlips)
	if err != nil {
		return nil, fmt.Errorf("look for tables with names like %s: %w", name, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Name])
	if err != nil {
		return nil, fmt.Errorf("look for tables with names like %s: %w", name, err)
	}
	return nearest(name, names), nil
}

func nearest(to Name, names []Name) []Name {
	type candidate struct {
		name Name
		far  int
	}
	var near []candidate
	for _, n := range names {
		slips := distance(to.Name, n.Name)
		if slips > min(mostSlips, utf8.RuneCountInString(to.Name)/lettersForSlip) {
			continue
		}
		far := 4 * slips
		if n.Name != to.Name {
			far++
		}
		if n.Schema != to.Schema {
			far += 1 + min(distance(to.Schema, n.Schema), mostSlips)
		}
		near = append(near, candidate{n, far})
	}
	slices.SortStableFunc(near, func(a, b candidate) int { return cmp.Compare(a.far, b.far) })
	var result []Name
	for _, c := range near[:min(len(near), mostNear)] {
		result = append(result, c.name)
	}
	return result
}

// distance counts the letters that differ, without regard to case.
func distance(a, b string) int {
	a, b = bytePerLetter(strings.ToLower(a), strings.ToLower(b))
	return smetrics.WagnerFischer(a, b, 1, 1, 1)
}

// bytePerLetter returns texts that differ in as many bytes as a and b differ in letters,
// because WagnerFischer compares bytes. Two names of the server have at most 126 letters,
// so there is a byte for each. If a and b have more, the letters after the 255th count as
// equal.
func bytePerLetter(a, b string) (string, string) {
	letters := map[rune]byte{}
	spell := func(text string) string {
		var bytes []byte
		for _, letter := range text {
			if _, known := letters[letter]; !known {
				letters[letter] = byte(min(len(letters), math.MaxUint8))
			}
			bytes = append(bytes, letters[letter])
		}
		return string(bytes)
	}
	return spell(a), spell(b)
}
