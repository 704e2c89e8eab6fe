package catalog

import (
	"context"
	"fmt"
)

// JoiningKeys describes tables by their foreign keys alone, those of them and to them,
// in one round trip.
func JoiningKeys(ctx context.Context, q Querier, oids ...uint32) ([]*Table, error) {
	return describe(ctx, q, oids, []part{{"foreign keys", askForeignKeys}})
}

// On is the key with table on in the place of table t.
func (f ForeignKey) On(t, on Name) ForeignKey {
	if f.Table == t {
		f.Table = on
	}
	if f.Referenced == t {
		f.Referenced = on
	}
	return f
}

// AddKeyOnSQL adds key, one of t to another table, to table on, which has none of its
// parts yet. They then bear the names that they have in t.
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

// WithKeys is the description with those foreign keys, and no others.
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

// AtCommit is the key as it is checked at COMMIT only.
func (f ForeignKey) AtCommit() ForeignKey {
	f.Deferrable, f.Deferred = true, true
	return f
}

// AlterSQL has the key checked when like is. It takes ACCESS EXCLUSIVE on its table.
func (f ForeignKey) AlterSQL(like ForeignKey) string {
	when := deferrable(like.Deferrable, like.Deferred)
	if when == "" {
		when = " NOT DEFERRABLE"
	} else if !like.Deferred {
		when += " INITIALLY IMMEDIATE"
	}
	return fmt.Sprintf("ALTER TABLE %s ALTER CONSTRAINT %s%s", f.Table, Quote(f.Name), when)
}

// RenameSQL gives the key another name. It takes ACCESS EXCLUSIVE on its table.
func (f ForeignKey) RenameSQL(to string) string {
	return fmt.Sprintf("ALTER TABLE %s RENAME CONSTRAINT %s TO %s", f.Table, Quote(f.Name), Quote(to))
}

// SetCommentSQL is CommentSQL of a key that may have another comment.
func (f ForeignKey) SetCommentSQL() string {
	text := "NULL"
	if f.Comment != "" {
		text = Literal(f.Comment)
	}
	return fmt.Sprintf("COMMENT ON CONSTRAINT %s ON %s IS %s", Quote(f.Name), f.Table, text)
}
