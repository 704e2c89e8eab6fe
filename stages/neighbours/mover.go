// Package neighbours moves the foreign keys between a table that is repacked and other tables.
//
// A neighbour is a table that a foreign key joins to the table that is repacked. The
// exchange can move all such keys in its own transaction, under the locks of all neighbours
// together. If these locks cannot be acquired, or not held for as long as moving all keys
// takes, repack moves the keys one by one. Then the exchange locks only the table and its
// copy:
//
//  1. Each change is made to the copy too, row by row, and nothing is logged: see
//     strategy.Link.RowByRow.
//  2. Each neighbour gets a second key, to or from the copy, in a transaction of its own.
//     The second key is checked at COMMIT, so that the first key reports every error
//     first. Then it is validated.
//  3. The exchange runs. Now the old keys lead to the old table. They are checked as
//     before, because each change is made to the old table too, row by row. The exchange
//     also moves the keys of the table to itself.
//  4. Each neighbour is handed over, in a transaction of its own. This drops the old key.
//     The new key gets the old key's name, and is checked when the old key was.
//
// Revert takes the same steps with the tables exchanged. Reset undoes step 2. Both read from
// the catalog what has been done.
//
// As long as a key leads to or from a table, changes are made to that table row by row. So
// no key ever leads to a table that lags.
package neighbours

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/strategy"
)

// ForeignKeys says how the keys are moved.
type ForeignKeys string

// The ways of ForeignKeys. ForeignKeysAuto moves the keys together, except in two cases:
// there are so many keys that the locks would be held for longer than the lock timeout, or
// the locks of all tables could not be acquired in a few attempts.
const (
	ForeignKeysAuto     ForeignKeys = "auto"
	ForeignKeysTogether ForeignKeys = "together"
	ForeignKeysOneByOne ForeignKeys = "one-by-one"
)

// Mover moves the foreign keys between the table and its neighbours.
type Mover struct {
	*steps.Worker
	Asked ForeignKeys // how the user wants them to be moved
	// Bounded tells that no row is to be expected that only one of the two tables can take.
	Bounded bool
	// Partitions lists the partitions that are locked with a neighbour that the table refers
	// to. Only a plan needs it.
	Partitions func(neighbour catalog.Name) []catalog.Name
}

// joint is one foreign key between the table and a neighbour.
type joint struct {
	outgoing bool // the key belongs to the table, not to the neighbour
	// main is the key of or to the table in use. other is the key of or to the copy.
	main, other *catalog.ForeignKey
	// own is the application's key: main or other. We have made the other one of the two.
	// own is nil if the application has dropped its key since.
	own *catalog.ForeignKey

	// of is set if the key is the part of this key, of a partitioned table: see
	// partitioned_keys.go.
	of *catalog.ForeignKey
	// parts are those of own, if its table is partitioned. ready says that they all have
	// their second keys.
	parts []catalog.KeyPart
	ready bool
	waits bool // the second key must not be added yet
}

// neighbour returns the name of the neighbour.
func (j joint) neighbour() catalog.Name {
	key := j.main
	if key == nil {
		key = j.other
	}
	if j.outgoing {
		return key.Referenced
	}
	return key.Table
}

// String names the key as the application knows it, if the application's key is there.
func (j joint) String() string {
	key := j.own
	for _, k := range []*catalog.ForeignKey{j.main, j.other} {
		if key == nil {
			key = k
		}
	}
	return fmt.Sprintf("foreign key %s of %s", catalog.Quote(key.Name), key.Table)
}

// joined reports whether there is a key for each of the two tables.
func (j joint) joined() bool {
	return j.own != nil && j.main != nil && j.other != nil && j.alike()
}

// alike reports whether our key acts like the application's. It does not compare the names
// of the columns on the table that is repacked: those of the other table may be older.
func (j joint) alike() bool {
	own, made := *j.own, *j.made()
	if !j.outgoing {
		own.RefColumns = made.RefColumns
	} else if own.Columns = made.Columns; len(own.DeleteColumns) == len(made.DeleteColumns) {
		own.DeleteColumns = made.DeleteColumns
	}
	return made.ActsLike(own)
}

// stale reports whether the application has replaced its key since we made ours.
func (j joint) stale() bool { return j.own != nil && j.main != nil && j.other != nil && !j.joined() }

// unvalidated reports whether the key that we have made must still be validated.
func (j joint) unvalidated() bool {
	return j.joined() && j.own.Validated && j.own.Enforced && !(j.main.Validated && j.other.Validated)
}

// made returns the key that is not the application's.
func (j joint) made() *catalog.ForeignKey {
	if j.own == j.main {
		return j.other
	}
	return j.main
}

const maxName = 63 // bytes, NAMEDATALEN - 1

// temporaryName returns the name of the key that the job makes beside the key called name.
// A reader of an error message sees from it which key is meant.
func (m *Mover) temporaryName(name string) string {
	prefix := m.temporaryPrefix()
	if len(prefix)+len(name) <= maxName {
		return prefix + name
	}
	hash := fmt.Sprintf("_%x", sha256.Sum256([]byte(name)))[:9]
	cut := name[:maxName-len(prefix)-len(hash)]
	for !utf8.ValidString(cut) {
		cut = cut[:len(cut)-1]
	}
	return prefix + cut + hash
}

// isTemporary reports whether a key of that name is one that we have made.
func (m *Mover) isTemporary(name string) bool {
	return strings.HasPrefix(name, m.temporaryPrefix())
}

func (m *Mover) temporaryPrefix() string { return "repack_" + m.Number() + "_" }

// marker is the comment on a key of the copy that we have made. Such a key has its final
// name from the start, because it is on a table of its own.
func (m *Mover) marker() string { return "made by repack for job " + m.Number() }

// joints reads the keys between the two tables and their neighbours. They are in the order
// in which the application's keys were created.
func (m *Mover) joints(ctx context.Context, q catalog.Querier) ([]joint, error) {
	tables, err := catalog.JoiningKeys(ctx, q, m.InUse(), m.Copied())
	if err != nil {
		return nil, err
	}
	main, other := tables[0], tables[1]
	return m.inTrees(m.pairs(main, other), &catalog.Table{KeyParts: slices.Concat(main.KeyParts, other.KeyParts)}), nil
}

// pairs returns the joints of two tables.
func (m *Mover) pairs(main, other *catalog.Table) []joint {
	list := append(m.pair(main.ForeignKeys, other.ForeignKeys, true), m.pair(main.Referencing, other.Referencing, false)...)
	slices.SortStableFunc(list, func(a, b joint) int { return int(a.oid()) - int(b.oid()) })
	return list
}

func (j joint) oid() uint32 {
	if j.own == nil {
		return 0
	}
	return j.own.OID
}

// pair joins the keys that belong together. Two keys of a neighbour have different names.
// Two keys of the table and its copy have the same name.
func (m *Mover) pair(main, other []catalog.ForeignKey, outgoing bool) []joint {
	type identity struct {
		table catalog.Name
		name  string
	}
	var order []identity
	var list []joint
	found := map[identity]*joint{}
	add := func(keys []catalog.ForeignKey, side func(*joint) **catalog.ForeignKey) {
		for i := range keys {
			key, made := &keys[i], false
			if key.SelfReference() {
				continue
			}
			id := identity{key.Table, key.Name}
			if outgoing {
				id.table, made = catalog.Name{}, key.Comment == m.marker()
			} else if made = m.isTemporary(key.Name); !made {
				id.name = m.temporaryName(key.Name)
			}
			j, known := found[id]
			if !known {
				j = &joint{outgoing: outgoing}
				found[id], order = j, append(order, id)
			}
			if there := *side(j); there != nil {
				// The application has replaced its key since the exchange. Ours is
				// that of no key now.
				left := joint{outgoing: outgoing}
				if made {
					*side(&left) = key
				} else {
					*side(&left), *side(j), j.own = there, key, key
				}
				list = append(list, left)
				continue
			}
			if *side(j) = key; !made {
				j.own = key
			}
		}
	}
	add(main, func(j *joint) **catalog.ForeignKey { return &j.main })
	add(other, func(j *joint) **catalog.ForeignKey { return &j.other })
	for _, id := range order {
		list = append(list, *found[id])
	}
	return list
}

// keyTakes is about how long the exchange holds its locks for each key.
const keyTakes = 2 * time.Millisecond

// neighbourKeys counts the keys of t to and from other tables.
func neighbourKeys(t *catalog.Table) (n int) {
	for _, key := range t.AllForeignKeys() {
		if !key.SelfReference() {
			n++
		}
	}
	return n
}

// firstAttempts is how often repack tries to acquire the locks of all neighbours together
// before it moves the keys one by one.
const firstAttempts = 3

// ExchangePolicy allows fewer attempts if the keys can still be moved one by one.
func (m *Mover) ExchangePolicy() lock.Policy {
	policy := m.Locks
	if m.CouldBeApart() {
		policy.Retries = min(policy.Retries, firstAttempts-1)
	}
	return policy
}

// Apart returns the reason why the keys of t cannot be moved one by one, or nil.
func (m *Mover) Apart(t *catalog.Table) error {
	if t.Partition != nil {
		return fmt.Errorf("%s is a partition, whose foreign keys PostgreSQL moves when it is detached and attached", t.Name)
	}
	if m.Alteration != nil && !m.Bounded {
		return fmt.Errorf("%s is altered, and a row that does not fit one of the two tables must not be an error of the application", t.Name)
	}
	return nil
}

// OneByOne reports whether the keys are moved one by one. A job that has begun to do so
// continues in this way.
func (m *Mover) OneByOne() bool {
	way, why := m.wayOfKeys(m.Source)
	if way == ForeignKeysOneByOne && m.Job.Options.RowByRow == "" {
		m.Log.Info("foreign keys are moved one by one", "job", m.Job.ID, "reason", why)
	}
	return way == ForeignKeysOneByOne
}

// wayOfKeys returns ForeignKeysTogether or ForeignKeysOneByOne, and the reason.
func (m *Mover) wayOfKeys(t *catalog.Table) (way ForeignKeys, why string) {
	keys := neighbourKeys(t)
	takes := time.Duration(keys) * keyTakes
	apart := m.Apart(t)
	switch {
	case m.Job != nil && m.Job.Options.RowByRow != "":
		return ForeignKeysOneByOne, "it has begun"
	case keys == 0:
		return ForeignKeysTogether, "there are none with other tables"
	case apart == nil && len(partitionedKeys(t)) > 0:
		return ForeignKeysOneByOne, fmt.Sprintf("%s is partitioned, and its key cannot be moved together with others", partitionedKeys(t)[0].Table)
	case m.Asked == ForeignKeysTogether:
		return ForeignKeysTogether, "it was asked for"
	case apart != nil:
		return ForeignKeysTogether, apart.Error()
	case m.Asked == ForeignKeysOneByOne:
		return ForeignKeysOneByOne, "it was asked for"
	case takes > m.Locks.Timeout:
		return ForeignKeysOneByOne, fmt.Sprintf("together %s about %s, more than the lock timeout of %s", takeText(keys), takes, m.Locks.Timeout)
	default:
		return ForeignKeysTogether, fmt.Sprintf("%s about %s; one by one if the locks are not obtained in %d attempts", takeText(keys), takes, firstAttempts)
	}
}

// CouldBeApart reports whether the keys can be moved one by one instead, after an exchange
// that has not acquired its locks.
func (m *Mover) CouldBeApart() bool {
	return m.Asked == ForeignKeysAuto && m.Job.Options.RowByRow == "" && m.Apart(m.Source) == nil && neighbourKeys(m.Source) > 0
}

// RetireRowByRowSQL returns the statements that come before t is parked. They make it
// possible to write to t as the replaced table.
func (m *Mover) RetireRowByRowSQL(t *catalog.Table) []string {
	if m.Job.Options.RowByRow == "" {
		return nil
	}
	return append(strategy.DropLateTriggersSQL(t.Name), identitySQL(t, t.Name, false)...)
}

// ReinstateRowByRowSQL returns the statements that come before the old table is put back.
func (m *Mover) ReinstateRowByRowSQL() []string {
	if m.Job.Options.RowByRow == "" {
		return nil
	}
	return m.IdentitySQL(true)
}

// LetNewOwnerIn runs letOwnerIn for the new owner of the table, if the owner has changed
// since changes began to be made row by row.
func (m *Mover) LetNewOwnerIn(ctx context.Context, tx *lock.Tx, owner string) error {
	if m.Job.Options.RowByRow == "" {
		return nil
	}
	return m.tryToLetIn(ctx, tx, owner)
}

func takeText(keys int) string {
	if keys == 1 {
		return "a key takes"
	}
	return fmt.Sprintf("%d keys take", keys)
}
