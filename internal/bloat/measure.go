package bloat

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
)

// MeasureError names the statements that allow Measure to read tables.
type MeasureError struct{ Statements []string }

// Error lists the statements.
func (e *MeasureError) Error() string {
	msg := "tables cannot be measured; have an administrator run:"
	for _, s := range e.Statements {
		msg += "\n  " + s
	}
	return msg
}

// extensionSQL looks for pgstattuple, and for the right to call its functions.
const extensionSQL = `
SELECT coalesce((SELECT format('%I', n.nspname)
                 FROM   pg_extension e
                 JOIN   pg_namespace n ON n.oid = e.extnamespace
                 WHERE  e.extname = 'pgstattuple'), ''),
       coalesce((SELECT bool_and(has_function_privilege(p.oid, 'EXECUTE'))
                 FROM   pg_extension e
                 JOIN   pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.classid = 'pg_proc'::regclass
                 JOIN   pg_proc p   ON p.oid = d.objid AND p.proname IN ('pgstattuple_approx', 'pgstatindex')
                 WHERE  e.extname = 'pgstattuple'), false),
       format('GRANT pg_stat_scan_tables TO %I;', current_user)`

// May returns the schema of pgstattuple. It returns *MeasureError if the extension is not there,
// or if the role may not use it.
func May(ctx context.Context, q catalog.Querier) (schema string, err error) {
	var may bool
	var grant string
	if err := q.QueryRow(ctx, extensionSQL).Scan(&schema, &may, &grant); err != nil {
		return "", fmt.Errorf("look for pgstattuple: %w", err)
	}
	switch {
	case schema == "":
		return "", &MeasureError{[]string{"CREATE EXTENSION pgstattuple;", grant}}
	case !may:
		return "", &MeasureError{[]string{grant}}
	}
	return schema, nil
}

const (
	// heapSQL skips pages that the visibility map knows to be all visible.
	heapSQL = `
SELECT table_len, (approx_free_space + dead_tuple_len)::bigint
FROM   %s.pgstattuple_approx($1::oid::regclass)`

	// btreeSQL returns the size that the leaf pages would have if they were as full as those of a
	// new index.
	btreeSQL = `
SELECT index_size, (internal_pages + 1) * %[2]d + (leaf_pages * %[2]d * coalesce(nullif(avg_leaf_density, 'NaN'), 0) / $2)::bigint
FROM   %[1]s.pgstatindex($1::oid::regclass)`

	btreesSQL = `
SELECT i.indexrelid, am.amname::text, c.relname::text,
       coalesce((SELECT o.option_value::int FROM pg_options_to_table(c.reloptions) o WHERE o.option_name = 'fillfactor'), 90),
       pg_relation_size(c.oid)
FROM   pg_index i
JOIN   pg_class c ON c.oid = i.indexrelid
JOIN   pg_am am   ON am.oid = c.relam
WHERE  i.indrelid = $1 AND i.indisvalid
ORDER  BY c.relname`
)

// Measure reads the table of an estimate and its btree indexes, with the extension in schema: all
// pages of the indexes, and those of the table that the visibility map does not know. It takes
// ACCESS SHARE on them.
func Measure(ctx context.Context, q catalog.Querier, schema string, e Estimate) (Estimate, error) {
	m := Estimate{OID: e.OID, Name: e.Name, AnalyzedAt: e.AnalyzedAt, By: Measured}
	var free int64
	if err := q.QueryRow(ctx, fmt.Sprintf(heapSQL, schema), e.OID).Scan(&m.Heap.Size, &free); err != nil {
		return e, fmt.Errorf("measure %s: %w", e.Name, err)
	}
	needed := m.Heap.Size - free
	m.Heap.Needed = &needed
	rows, err := q.Query(ctx, btreesSQL, e.OID)
	if err != nil {
		return e, fmt.Errorf("list indexes of %s: %w", e.Name, err)
	}
	type index struct {
		oid          uint32
		method, name string
		fill         int
		size         int64
	}
	var indexes []index
	var one index
	if _, err := pgx.ForEachRow(rows, []any{&one.oid, &one.method, &one.name, &one.fill, &one.size}, func() error {
		indexes = append(indexes, one)
		return nil
	}); err != nil {
		return e, fmt.Errorf("list indexes of %s: %w", e.Name, err)
	}
	together := int64(0)
	m.Indexes.Needed = &together
	for _, i := range indexes {
		if i.method != "btree" {
			m.Indexes.Size += i.size
			m.Indexes.Needed, m.Indexes.Unknown = nil, fmt.Sprintf("index %s: access method %s", catalog.Quote(i.name), i.method)
			continue
		}
		var size, full int64
		if err := q.QueryRow(ctx, fmt.Sprintf(btreeSQL, schema, page), i.oid, i.fill).Scan(&size, &full); err != nil {
			return e, fmt.Errorf("measure index %s: %w", i.name, err)
		}
		m.Indexes.Size += size
		together += min(full, size)
	}
	return m, nil
}

// Gone reports whether err says that a relation has been dropped meanwhile.
func Gone(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == pgerrcode.UndefinedTable || pgErr.Code == pgerrcode.InvalidParameterValue)
}
