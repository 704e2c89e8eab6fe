package neighbours

import (
	"context"
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/steps"
)

// ValidateForeignKeys validates the keys that were valid before the exchange.
func (m *Mover) ValidateForeignKeys(ctx context.Context) error {
	return m.ValidateKeysOf(ctx, m.InUse())
}

// ValidateKeysOf does what ValidateForeignKeys does, for the table with that OID.
func (m *Mover) ValidateKeysOf(ctx context.Context, oid uint32) error {
	if len(m.Source.AllForeignKeys()) == 0 && (m.Source.Partition == nil || len(m.Source.Partition.ForeignKeys) == 0) {
		return nil
	}
	now, err := catalog.Read(ctx, m.Pool, oid)
	if err != nil {
		return err
	}
	for _, key := range KeysToValidate(now) {
		if key.Validated || !m.Source.WasValid(key) {
			continue
		}
		if err := m.validate(ctx, key); err != nil {
			return fmt.Errorf("validate foreign key %q of %s: %w", key.Name, key.Table, err)
		}
	}
	return nil
}

// KeysToValidate returns the keys of t that an exchange may have left not valid. PostgreSQL
// 18 does not record what it has checked of a partitioned table's key that is not valid for
// all partitions.
func KeysToValidate(t *catalog.Table) []catalog.ForeignKey {
	keys := t.AllForeignKeys()
	if t.Partition != nil {
		keys = append(keys, t.Partition.ForeignKeys...)
	}
	return keys
}

// validate validates a key. It takes SHARE UPDATE EXCLUSIVE on the table of the key.
func (m *Mover) validate(ctx context.Context, key catalog.ForeignKey) error {
	return m.Perform(ctx, m.Validation("", key))
}

// Validation is the transaction that validates a key.
func (m *Mover) Validation(does string, key catalog.ForeignKey) steps.Transaction {
	return steps.Transaction{
		Does: does,
		Locks: func(p *steps.Planner) []steps.Lock {
			locks := []steps.Lock{p.Settling(key.Table)}
			if !key.SelfReference() && key.Referenced == m.Source.Name {
				locks = append(locks, p.Lock("ROW SHARE", key.Referenced))
			}
			return locks
		},
		Actions: []steps.Action{
			steps.Settle(func() []string { return []string{key.Table.String()} }),
			steps.SendBounded(func() []string { return []string{key.ValidateSQL()} }),
		},
	}
}
