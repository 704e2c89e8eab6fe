package catalog

import (
	"context"
	"fmt"
)

// JoiningKeys describes only the foreign keys of tables, in both directions. It needs
// one round trip. The result is in the order of oids.
func JoiningKeys(ctx context.Context, q Querier, oids ...uint32) ([]*Table, error) {
	return describe(ctx, q, oids, []part{{"foreign keys", askForeignKeys, 0}})
}

// JoiningKeysOnly is JoiningKeys without the parts of keys, of which there may be very
// many.
func JoiningKeysOnly(ctx context.Context, q Querier, oids ...uint32) ([]*Table, error) {
	return describe(ctx, q, oids, []part{{"foreign keys", askKeys, 0}})
}

// On returns the key with table on in place of table t, on either side.
func (f ForeignKey) On(t, on Name) ForeignKey {
	if f.Table == t {
		f.Table = on
	}
	if f.Referenced == t {
		f.Referenced = on
	}
	return f
}

// AddKeyOnSQL returns statements that add key, a key from t to another table, to table
// on. on must not have parts of the key yet. Parts of the new key get the names that
// they have in t. Locks are those of ForeignKey.AddSQL, and of RENAME CONSTRAINT for
// the parts.
func (t *Table) AddKeyOnSQL(key ForeignKey, on Name) []string {
	copied := *t
	copied.KeyParts = nil
	for _, p := range t.KeyParts {
		if p.KeyTable == t.Name {
			p.KeyTable = on
		}
		if p.Table == t.Name {
			p.Table = on
		}
		copied.KeyParts = append(copied.KeyParts, p)
	}
	key.Table = on
	return copied.AddKeySQL(key)
}

// WithKeys returns the description with only those foreign keys for which these is
// true.
func (t *Table) WithKeys(these func(ForeignKey) bool) *Table {
	w := *t
	w.ForeignKeys, w.Referencing, w.KeyParts = []ForeignKey{}, []ForeignKey{}, []KeyPart{}
	for _, k := range t.ForeignKeys {
		if these(k) {
			w.ForeignKeys = append(w.ForeignKeys, k)
		}
	}
	for _, k := range t.Referencing {
		if these(k) {
			w.Referencing = append(w.Referencing, k)
		}
	}
	for _, p := range t.KeyParts {
		for _, k := range w.AllForeignKeys() {
			if p.of(k) {
				w.KeyParts = append(w.KeyParts, p)
			}
		}
	}
	return &w
}

// AtCommit returns the key as DEFERRABLE INITIALLY DEFERRED: it is checked at COMMIT.
func (f ForeignKey) AtCommit() ForeignKey {
	f.Deferrable, f.Deferred = true, true
	return f
}

// AlterSQL returns a statement that makes the key deferrable, and deferred, as like is.
// It takes ACCESS EXCLUSIVE on f.Table.
func (f ForeignKey) AlterSQL(like ForeignKey) string {
	when := deferrable(like.Deferrable, like.Deferred)
	if when == "" {
		when = " NOT DEFERRABLE"
	} else if !like.Deferred {
		when += " INITIALLY IMMEDIATE"
	}
	return fmt.Sprintf("ALTER TABLE %s ALTER CONSTRAINT %s%s", f.Table, Quote(f.Name), when)
}

// RenameSQL returns a statement that renames the key. It takes ACCESS EXCLUSIVE on
// f.Table.
func (f ForeignKey) RenameSQL(to string) string {
	return fmt.Sprintf("ALTER TABLE %s RENAME CONSTRAINT %s TO %s", f.Table, Quote(f.Name), Quote(to))
}

// SetCommentSQL is CommentSQL for a key that may already have another comment: it also
// removes a comment.
func (f ForeignKey) SetCommentSQL() string {
	text := "NULL"
	if f.Comment != "" {
		text = Literal(f.Comment)
	}
	return fmt.Sprintf("COMMENT ON CONSTRAINT %s ON %s IS %s", Quote(f.Name), f.Table, text)
}
