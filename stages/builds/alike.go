package builds

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// likeIndexesSQL names the pairs of catalog.LikeIndexesSQL.
const likeIndexesSQL = `
SELECT   a.relname::text, b.relname::text, l.attached, l.other
FROM    (` + catalog.LikeIndexesSQL + `) l
JOIN     pg_class a ON a.oid = l.attached
JOIN     pg_class b ON b.oid = l.other
ORDER BY l.attached, l.other`

// alike returns, for each index that is like an attached one, or is an attached one with
// such others, a number for all that are alike, and its place among them. If ATTACH
// PARTITION is to attach the right ones, they must be created in the order in which those
// of the source were: the checks make sure that this is the right order there.
func (p Planner) alike(ctx context.Context, q catalog.Querier) (map[string]place, error) {
	if p.Source.Partition == nil || len(p.Source.Partition.Indexes) == 0 || len(p.Source.Indexes) == len(p.Source.Partition.Indexes) {
		return nil, nil
	}
	rows, err := q.Query(ctx, likeIndexesSQL, p.Source.OID)
	if err != nil {
		return nil, fmt.Errorf("look for indexes like the attached ones of %s: %w", p.Source.Name, err)
	}
	places := map[string]place{}
	var attached, other string
	var attachedOID, otherOID uint32
	_, err = pgx.ForEachRow(rows, []any{&attached, &other, &attachedOID, &otherOID}, func() error {
		group := attachedOID // indexes that are like the same one are like each other
		if is, known := places[attached]; known {
			group = is.group
		}
		places[attached] = place{group, attachedOID}
		places[other] = place{group, otherOID}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for indexes like the attached ones of %s: %w", p.Source.Name, err)
	}
	return places, nil
}

// place is the group of an index that is like others, and its OID in the source.
type place struct{ group, made uint32 }

// apart takes the builds of places out of rest, and returns a list for each group.
func apart(rest []Build, places map[string]place) (lists [][]Build, others []Build) {
	groups := map[uint32]int{}
	for _, b := range rest {
		at, is := places[b.Name]
		if !is {
			others = append(others, b)
			continue
		}
		n, known := groups[at.group]
		if !known {
			n = len(lists)
			groups[at.group], lists = n, append(lists, nil)
		}
		lists[n] = append(lists[n], b)
	}
	for _, list := range lists {
		slices.SortFunc(list, func(a, b Build) int { return cmp.Compare(places[a.Name].made, places[b.Name].made) })
	}
	return lists, others
}
