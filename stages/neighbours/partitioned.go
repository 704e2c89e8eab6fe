package neighbours

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/checks"
)

// A neighbour may be a partitioned table. Before PostgreSQL 18 its key cannot be NOT VALID,
// and the rows of all partitions would be checked under lock. So such a key is always moved
// one by one, and its second key is added in pieces:
//
//  1. Each partition gets the second key of its part, NOT VALID, in a transaction of its
//     own.
//  2. Each is validated.
//  3. The partitioned table gets its second key, which adopts those of the partitions. The
//     server looks at no row.
//
// The application's key stays where it is until the hand-over, and is valid. So a partition
// that is created or attached at any moment has it, and the second key too from step 3 on.
// A partition that comes between steps 1 and 3 makes step 3 fail, and gets its piece first.
// A partition that is detached takes its part, and its piece, along: both are then keys of
// a neighbour of its own, under the names that such a neighbour's keys have.
//
// One mechanism serves all versions. From 18 on a key of a partitioned table can be NOT
// VALID, but adding it so and then validating it would only save step 3.

// inTrees finds the pieces of the partitioned tables' keys, and what has to wait: a key
// adopts any key of a partition that is like it. So a partitioned table comes before its
// partitions, and its keys come one after the other.
//
// parts are the parts of all keys in list.
func (m *Mover) inTrees(list []joint, parts *catalog.Table) []joint {
	if !slices.ContainsFunc(list, joint.partitioned) {
		return list
	}
	var trees []*joint
	for i := range list {
		if j := &list[i]; j.partitioned() && j.own != nil {
			j.parts = parts.PartsOf(*j.own)
			trees = append(trees, j)
		}
	}
	depth := func(j *joint) (n int) {
		for _, t := range trees {
			if t.hasPart(j.own.Table) {
				n++
			}
		}
		return n
	}
	slices.SortStableFunc(trees, func(a, b *joint) int {
		return cmp.Or(cmp.Compare(depth(a), depth(b)), cmp.Compare(a.own.OID, b.own.OID))
	})
	claims := map[catalog.Name][]*joint{}
	claimed := func(table catalog.Name, key catalog.ForeignKey) bool {
		return slices.ContainsFunc(claims[table], func(t *joint) bool { return t.mayAdopt(key) })
	}
	for _, t := range trees {
		if t.joined() {
			continue
		}
		t.waits = claimed(t.own.Table, *t.own) || slices.ContainsFunc(t.parts, func(p catalog.KeyPart) bool { return claimed(p.Table, *t.own) })
		claims[t.own.Table] = append(claims[t.own.Table], t)
		for _, p := range t.parts {
			claims[p.Table] = append(claims[p.Table], t)
		}
	}
	for i := range list {
		if j := &list[i]; !j.outgoing && j.own != nil && !j.partitioned() && !j.joined() {
			j.waits = claimed(j.own.Table, *j.own)
		}
	}
	return m.withPieces(list)
}

// mayAdopt reports whether the server would look at a key of a partition as the part of t's
// key. From PostgreSQL 18 on it may be an error that only one of the two is enforced.
func (j joint) mayAdopt(key catalog.ForeignKey) bool {
	return slices.Equal(j.own.Columns, key.Columns) && slices.Equal(j.own.RefColumns, key.RefColumns)
}

// withPieces puts before each key of a partitioned table that must be joined, and need not
// wait, its pieces. A key of a partition that we have made and that is of no use as a piece
// stays in the list. It belongs to no key of the application, and is dropped.
func (m *Mover) withPieces(list []joint) []joint {
	used := map[int]bool{}
	pieces := map[int][]joint{}
	for i, tree := range list {
		if !tree.partitioned() || tree.own == nil || tree.main != nil && tree.other != nil || tree.waits || !tree.own.Enforced {
			continue
		}
		list[i].ready = true
		for _, p := range tree.parts {
			if p.Partitioned {
				continue
			}
			piece := m.piece(tree, p)
			if n := slices.IndexFunc(list, func(j joint) bool { return j.is(*piece.own, m.temporaryName(p.Name)) }); n >= 0 {
				key := list[n].key()
				if used[n] = fits(*key, *piece.own) && (tree.own == tree.main) == (list[n].main == nil); used[n] {
					piece.setMade(key)
				} else {
					piece.waits = true // until that key is dropped, its name is not free
				}
			}
			if !piece.joined() || piece.unvalidated() {
				list[i].ready = false
			}
			pieces[i] = append(pieces[i], piece)
		}
	}
	var all []joint
	for i, j := range list {
		all = append(all, pieces[i]...)
		if !used[i] {
			all = append(all, j)
		}
	}
	return all
}

// withoutPieces undoes withPieces: the keys that pieces have are in joints of their own,
// except those that have been adopted.
func withoutPieces(list []joint) []joint {
	var all []joint
	for _, j := range list {
		if j.of != nil && slices.ContainsFunc(list, func(t joint) bool { return t.own == j.of && t.joined() }) {
			continue
		}
		j.parts, j.ready, j.waits = nil, false, false
		if j.of != nil {
			j = j.withoutOwn()
			j.of = nil
		}
		if j.main != nil || j.other != nil {
			all = append(all, j)
		}
	}
	return all
}

// piece returns the joint of part p of a partitioned table's key.
func (m *Mover) piece(tree joint, p catalog.KeyPart) joint {
	own := p.Alone(*tree.own)
	j := joint{own: &own, of: tree.own}
	if tree.own == tree.main {
		j.main = &own
	} else {
		j.other = &own
	}
	return j
}

// setMade sets the key of the other table.
func (j *joint) setMade(key *catalog.ForeignKey) {
	if j.own == j.main {
		j.other = key
	} else {
		j.main = key
	}
}

// is reports whether the joint is a single key that we have made, of the table of like and
// with that name.
func (j joint) is(like catalog.ForeignKey, name string) bool {
	if j.own != nil || j.outgoing {
		return false
	}
	key := j.key()
	return key.Table == like.Table && key.Name == name
}

// key returns one of the keys.
func (j joint) key() *catalog.ForeignKey { return cmp.Or(j.own, j.main, j.other) }

// fits reports whether a key that we have made can stand for the application's key.
func fits(made, own catalog.ForeignKey) bool {
	return made.ActsLike(own) && (!own.Enforced || made.Deferrable && made.Deferred)
}

// sameTransaction reports whether the work for two joints is done in one transaction: both
// are pieces of the same partition.
func sameTransaction(a, b joint) bool {
	return a.of != nil && b.of != nil && a.own.Table == b.own.Table
}

// partitioned reports whether the key is one of a partitioned table to the table.
func (j joint) partitioned() bool { return !j.outgoing && j.of == nil && j.key().Partitioned }

// unadopted reports whether the second key of a partitioned table must still be added, or a
// key that waits for it.
func (j joint) unadopted() bool { return j.own != nil && !j.joined() && (j.waits || j.partitioned()) }

// withoutOwn returns the joint with only the key that we have made.
func (j joint) withoutOwn() joint {
	if j.own == j.main {
		j.main = nil
	} else {
		j.other = nil
	}
	j.own = nil
	return j
}

func (j joint) hasPart(table catalog.Name) bool {
	return slices.ContainsFunc(j.parts, func(p catalog.KeyPart) bool { return p.Table == table })
}

// adoptSQL adds the second key to a partitioned table, if its pieces are there and valid.
func (m *Mover) adoptSQL(j joint, made catalog.ForeignKey) pairOf {
	p := pairOf{mode: "SHARE ROW EXCLUSIVE", what: "add the second of " + j.String()}
	if made.Enforced && !j.ready {
		return pairOf{}
	}
	p.sql = made.AdoptSQL(m.partsOn(j, made.Referenced, m.temporaryName))
	return p
}

// partsOn returns the parts of a partitioned table's key as those of a key to another
// table, with other names.
func (m *Mover) partsOn(j joint, referenced catalog.Name, name func(string) string) []catalog.KeyPart {
	parts := slices.Clone(j.parts)
	for i := range parts {
		parts[i].Referenced, parts[i].Name = referenced, name(parts[i].Name)
	}
	return parts
}

// becomePartsSQL gives the parts of the key of the table in use the names and comments that
// the parts of the application's key have. They come after dropping that key.
func (m *Mover) becomePartsSQL(j joint) []string {
	if !j.partitioned() {
		return nil
	}
	return catalog.NamePartsSQL(m.partsOn(j, j.main.Referenced, func(name string) string { return name }))
}

// knownSQL makes sure that no partition has come since the keys were read.
func (m *Mover) knownSQL(j joint) []string {
	if !j.partitioned() {
		return nil
	}
	return []string{catalog.KnownSQL(j.own.Table, j.parts)}
}

// treeLocks returns what is locked together with a partitioned table.
func (j joint) treeLocks(mode string) []lock.Want {
	if !j.partitioned() {
		return nil
	}
	var wants []lock.Want
	for _, p := range j.parts {
		wants = append(wants, lock.Want{Relation: "ONLY " + p.Table.String(), Mode: mode})
	}
	return wants
}

// partitionedKeys returns the keys of partitioned tables to t.
func partitionedKeys(t *catalog.Table) (keys []catalog.ForeignKey) {
	for _, key := range t.Referencing {
		if key.Partitioned {
			keys = append(keys, key)
		}
	}
	return keys
}

// ErrMustBeApart reports that a partitioned table refers to the table. Its key cannot be
// moved together with the others.
var ErrMustBeApart = errors.New("foreign keys of partitioned tables are moved one by one")

// MayBeTogether makes sure that all keys of t can be moved in the exchange.
func (m *Mover) MayBeTogether(t *catalog.Table) error {
	keys := partitionedKeys(t)
	if m.Job.Options.RowByRow != "" || len(keys) == 0 {
		return nil
	}
	return fmt.Errorf("foreign key %s of %s: %w", catalog.Quote(keys[0].Name), keys[0].Table, ErrMustBeApart)
}

// treePartTakes is about how long a transaction takes for each partition if it adds a key to
// a partitioned table, or hands it over.
const treePartTakes = 500 * time.Microsecond

// PartLocks is about how many locks it takes to drop and add a key, for each partition.
const PartLocks = 8

// LargeTrees refuses keys of partitioned tables with so many partitions that their locks
// would be held for too long, or would be too many. locks is the size of the lock table.
func (m *Mover) LargeTrees(locks int) (reasons []checks.Reason) {
	for _, key := range partitionedKeys(m.Source) {
		parts := len(m.Source.PartsOf(key))
		what := fmt.Sprintf("foreign key %s of %s, with %d partitions,", catalog.Quote(key.Name), key.Table, parts)
		if took := time.Duration(parts) * treePartTakes; took > m.Locks.Timeout/2 {
			reasons = append(reasons, checks.Reason{
				Object: what, Why: fmt.Sprintf("would be moved under lock, which takes about %s, more than half of the lock timeout of %s", took, m.Locks.Timeout),
				Remedy: "raise --lock-timeout if the application may be held up for so long, or drop it for the time of the repack",
			})
		}
		if parts*PartLocks > locks/2 {
			reasons = append(reasons, checks.Reason{
				Object: what, Why: fmt.Sprintf("would be moved with about %d locks, more than half of what the server has", parts*PartLocks),
				Remedy: "raise max_locks_per_transaction",
			})
		}
	}
	return reasons
}

// PartsInTrees counts the parts of the keys of partitioned tables.
func (m *Mover) PartsInTrees() (n int) {
	for _, key := range partitionedKeys(m.Source) {
		n += len(m.Source.PartsOf(key))
	}
	return n
}

// treeTrigger names the trigger that locks referenced rows, on a partitioned table. It is
// also on each partition, which may have one of its own for a key of the same name.
func (m *Mover) treeTrigger(made catalog.ForeignKey) string {
	hash := sha256.Sum256([]byte(strings.TrimPrefix(made.Name, m.temporaryPrefix())))
	return fmt.Sprintf("00_%s%d_%x", m.temporaryPrefix(), made.TableOID, hash[:8])
}

// lockTriggerOf names the trigger that belongs to a key that we have made.
func (m *Mover) lockTriggerOf(made catalog.ForeignKey) string {
	if made.Partitioned {
		return m.treeTrigger(made)
	}
	return lockTrigger(made.Name)
}

// settledBefore returns the relations for which lock.Tx.Settle runs before a pair is tried,
// one after the other: a lock on a partitioned table would stop who creates a partition.
func settledBefore(pair lock.Pair) []string {
	if len(pair.Also) == 0 {
		return []string{pair.A.Relation}
	}
	relations := []string{"ONLY " + pair.A.Relation}
	for _, w := range pair.Also {
		relations = append(relations, w.Relation)
	}
	return relations
}
