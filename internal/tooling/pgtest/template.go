package pgtest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Template is a database of the shared server that those of tests are copied
// from: what many of them would each begin with is made once.
type Template struct {
	prepare func(ctx context.Context, config *pgx.ConnConfig) error

	once sync.Once
	name string
	err  error // of the one attempt to make it
}

// NewTemplate describes a template: prepare fills it, as the superuser, when the
// first test asks, and leaves no session behind.
func NewTemplate(prepare func(ctx context.Context, config *pgx.ConnConfig) error) *Template {
	return &Template{prepare: prepare}
}

// New does what the function New does with a copy of the template.
func (m *Template) New(t testing.TB) *Database {
	t.Helper()
	server := sharedServer(t)
	m.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		m.name = fmt.Sprintf("template_%d", serial.Add(1))
		if m.err = createDatabase(ctx, server, m.name, pristine); m.err != nil {
			return
		}
		var config *pgx.ConnConfig
		if config, m.err = pgx.ParseConfig(server.ConnString(m.name)); m.err == nil {
			m.err = m.prepare(ctx, config)
		}
	})
	if m.err != nil {
		t.Fatalf("pgtest: make template: %v", m.err)
	}
	return newFrom(t, server, m.name)
}
