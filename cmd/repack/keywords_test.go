package main

import (
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// TestPlainQuotesKeywords compares with the server, whose version may be older: it may
// know fewer keywords, but none that is not in the list.
func TestPlainQuotesKeywords(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	quoted := pgtest.Column[string](t, db.Pool, `SELECT word FROM pg_get_keywords() WHERE quote_ident(word) <> word`)
	if len(quoted) < 50 {
		t.Fatalf("the server quotes %d keywords", len(quoted))
	}
	for _, word := range quoted {
		if plain(word) != `"`+word+`"` {
			t.Errorf("%s is not quoted", word)
		}
	}
	for _, word := range pgtest.Column[string](t, db.Pool, `SELECT word FROM pg_get_keywords() WHERE catcode = 'U'`) {
		if plain(word) != word && !keywords[word] {
			t.Errorf("%s is quoted", word)
		}
	}
}
