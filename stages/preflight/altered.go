package preflight

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/neighbours"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/strategy"
)

// alter finds out what the user asks to change, and makes the link of the dry build follow it.
// It creates a model of the table in the schema of the shadow, and removes it.
func (p *Inspector) alter(ctx context.Context, tx pgx.Tx) (reasons []checks.Reason, err error) {
	if p.Request.Alter.None() {
		return nil, nil
	}
	key, _ := p.Source.Key()
	model := alter.Model{Asked: p.Request.Alter, Source: p.Source, Key: key, Schema: p.Job.ShadowSchema, Published: p.MayBePublished()}
	if p.Alteration, reasons, err = model.Make(ctx, tx); err != nil || len(reasons) > 0 {
		return reasons, err
	}
	p.SetLink(p.Key)
	if p.Bounded, err = p.Alteration.Bounded(ctx, tx, p.Source.OID); err != nil {
		return nil, err
	}
	if !p.Bounded && p.Asked == neighbours.ForeignKeysOneByOne {
		return []checks.Reason{{
			Object: "--foreign-keys " + string(neighbours.ForeignKeysOneByOne), Why: "a row that does not fit one of the two tables would be an error of the application",
			Remedy: "leave it out: the foreign keys of such a table are moved together",
		}}, nil
	}
	return nil, p.tellLikely(ctx, tx)
}

// likelySQL lists integer columns that are named like references to table $1, and have no foreign
// key: such as orders_id and order_id for orders.
const likelySQL = `
SELECT   format('%I of %s', a.attname, a.attrelid::regclass)
FROM     pg_class t
JOIN     pg_attribute a ON a.attname IN (t.relname || '_id', regexp_replace(t.relname, 's$', '') || '_id')
JOIN     pg_class c     ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
WHERE    t.oid = $1 AND a.atttypid IN ('int2'::regtype, 'int4'::regtype) AND NOT a.attisdropped
AND      c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
AND      NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'f' AND a.attnum = ANY (k.conkey))
ORDER BY 1
LIMIT    20`

// tellLikely logs the columns that may refer to a key that becomes bigint, and that nothing says
// so of. They stay as they are.
func (p *Inspector) tellLikely(ctx context.Context, tx pgx.Tx) error {
	if !p.Request.Alter.ToBigint {
		return nil
	}
	rows, err := tx.Query(ctx, likelySQL, p.Source.OID)
	if err != nil {
		return fmt.Errorf("look for columns named like references: %w", err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for columns named like references: %w", err)
	}
	if len(columns) > 0 {
		p.Log.Warn("integer columns are named like references to the table, have no foreign key, and stay as they are", "table", p.Source.Name.String(), "columns", columns)
	}
	return nil
}

// Alter finds out what the user asks to change, in a transaction of its own. It returns
// *checks.RefusedError.
func (p *Inspector) Alter(ctx context.Context) error {
	if p.Request.Alter.None() {
		return nil
	}
	model := *p
	model.Request = p.Clone()
	var reasons []checks.Reason
	// The sessions of a plan are read-only.
	err := pgx.BeginTxFunc(ctx, p.Pool, pgx.TxOptions{AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) (err error) {
		model.Job = p.JobNumbered(fmt.Sprintf("trial_%d", tx.Conn().PgConn().PID()))
		index, _ := p.Source.Key()
		if model.Key, err = catalog.ReadKey(ctx, tx, p.Source.OID, index.Name); err != nil {
			return err
		}
		if err := steps.Do(ctx, tx, model.builder().CreateSchemas()...); err != nil {
			return err
		}
		if reasons, err = model.alter(ctx, tx); err != nil {
			return err
		}
		return errDryBuildOver
	})
	if !errors.Is(err, errDryBuildOver) {
		return err
	}
	p.Alteration, p.Bounded = model.Alteration, model.Bounded
	if len(reasons) > 0 {
		return &checks.RefusedError{Table: p.Source.Name, Reasons: reasons}
	}
	return nil
}

// A sample has the rows of so many blocks, and at most so many rows.
const (
	sampleBlocks = 256
	sampleRows   = 1000
)

// copySample converts some rows. If one of them does not fit, it names those that it finds.
func (p *Inspector) copySample(ctx context.Context, tx pgx.Tx) error {
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, p.Link.CopyAnySQL(sampleRows))
		return err
	})
	if !strategy.IsUnfit(err) || strategy.Collision(err) {
		return err
	}
	blocks, measured := strategy.Blocks(ctx, tx, p.Source.Name)
	if measured != nil {
		return errors.Join(err, measured)
	}
	rows, looked := p.Link.UnfitRows(ctx, tx, 0, min(blocks, sampleBlocks), alter.MostUnfit)
	if looked != nil || len(rows) == 0 {
		return errors.Join(err, looked)
	}
	return &alter.UnfitError{Table: p.Source.Name, KeyColumns: p.Link.KeyNames(), Rows: rows, Refused: true, Unbegun: true, Err: err}
}
