package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/internal/tooling/pgserver"
	"github.com/repack-go/repack/repack"
)

// place is where the demo happens.
type place struct {
	config  *pgx.ConnConfig
	options repack.Options   // where repack keeps its things
	schemas []string         // ours to drop
	server  *pgserver.Server // nil: somebody else's
}

func open(ctx context.Context, o Options) (*place, error) {
	if o.DSN == "" {
		printer{o.Out}.title("Starting a throwaway PostgreSQL server")
		return openThrowaway(ctx)
	}
	return openOther(ctx, o.DSN)
}

func openThrowaway(ctx context.Context) (*place, error) {
	server, err := pgserver.Start(ctx, pgserver.Options{})
	if err != nil {
		if errors.Is(err, pgserver.ErrNotFound) {
			err = fmt.Errorf("%w; or use a server that runs already: --dsn", err)
		}
		return nil, err
	}
	p := &place{server: server, schemas: []string{schema}}
	if err := p.connect(ctx, server.ConnString("postgres")); err != nil {
		return nil, errors.Join(err, server.Close())
	}
	return p, nil
}

// openOther keeps everything of repack's in schemas of our own, so that jobs
// that are remembered or under way there are not touched.
func openOther(ctx context.Context, dsn string) (*place, error) {
	p := &place{
		options: repack.Options{RegistrySchema: schema + "_registry", ShadowSchema: schema + "_shadow"},
		schemas: []string{schema, schema + "_registry", schema + "_shadow", schema + "_shadow_old"},
	}
	if err := p.connect(ctx, dsn); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *place) connect(ctx context.Context, dsn string) (err error) {
	if p.config, err = pgx.ParseConfig(dsn); err != nil {
		return &repack.UsageError{Err: fmt.Errorf("connection string: %w", err)}
	}
	conn, err := pgx.ConnectConfig(ctx, p.config)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := session.Direct(ctx, conn); err != nil {
		return err
	}
	p.config.RuntimeParams["application_name"] = "repack demo"
	return p.createSchemas(ctx, conn)
}

// createSchemas makes all or none.
func (p *place) createSchemas(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, name := range p.schemas {
			_, err := tx.Exec(ctx, "CREATE SCHEMA "+pgx.Identifier{name}.Sanitize())
			var pgErr *pgconn.PgError
			if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.DuplicateSchema {
				return fmt.Errorf("there is a schema %s in this database already; if an earlier demo has left it: DROP SCHEMA %s CASCADE",
					name, p.schemaList())
			}
			if err != nil {
				return fmt.Errorf("create schema %s: %w", name, err)
			}
		}
		return nil
	})
}

func (p *place) schemaList() string { return strings.Join(p.schemas, ", ") }

// cleaning is how long removing everything may take after an interrupt.
const cleaning = time.Minute

// close removes what open has made, and what was put there since.
func (p *place) close(ctx context.Context, keep bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleaning)
	defer cancel()
	if p.server != nil {
		return p.server.Close()
	}
	if keep {
		return nil
	}
	conn, err := pgx.ConnectConfig(ctx, p.config)
	if err != nil {
		return fmt.Errorf("connect to drop schemas %s: %w", p.schemaList(), err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, fmt.Sprintf("DROP SCHEMA IF EXISTS %s CASCADE", p.schemaList())); err != nil {
		return fmt.Errorf("drop schemas %s: %w", p.schemaList(), err)
	}
	return nil
}
