package alter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/checks"
)

// Model is an empty table with the columns, keys, checks and indexes of the source. The
// actions that the user asks for are carried out on it, so that PostgreSQL parses them and
// says what becomes of the table.
type Model struct {
	Asked  Request
	Source *catalog.Table
	Key    catalog.Index // of the source
	Schema string        // where the model is created: no table in it has the name of the source
	// Published allows that subscribers of the table do not know the alteration.
	Published bool

	tx      pgx.Tx
	actions [][]Action // one list for each value of --alter
	wide    []string   // names of Asked.Bigint
	lossy   []string   // names of Asked.AllowLossy
	reasons []checks.Reason
}

// Make finds out what the request changes. It creates the model in a savepoint of tx, which it
// rolls back. reasons say why the table cannot be altered so; they are those of the server, as
// far as it has an opinion.
//
// It takes no lock on the source.
func (m Model) Make(ctx context.Context, tx pgx.Tx) (a *Alteration, reasons []checks.Reason, err error) {
	m.parse()
	m.judgePartition()
	if len(m.reasons) == 0 {
		err = m.widen(ctx, tx)
	}
	if err != nil || len(m.reasons) > 0 {
		return nil, m.reasons, err
	}
	m.tx = tx
	err = m.undone(ctx, func() (err error) {
		a, err = m.make(ctx)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("alter a model of %s: %w", m.Source.Name, err)
	}
	return a, m.reasons, nil
}

func (m *Model) refuse(object, why, remedy string) {
	m.reasons = append(m.reasons, checks.Reason{Object: object, Why: why, Remedy: remedy})
}

// parse reads what the user has written.
func (m *Model) parse() {
	m.wide, m.lossy = m.names("--to-bigint", m.Asked.Bigint), m.names("--allow-lossy", m.Asked.AllowLossy)
	for _, text := range m.Asked.Alter {
		actions, err := Parse(text, m.Source.Name.Schema, m.Source.Name.Name)
		if err != nil {
			m.refuse("--alter", err.Error(), "")
			continue
		}
		for _, a := range actions {
			m.parseKey(a)
		}
		m.actions = append(m.actions, actions)
	}
	if m.Asked.Tablespace != "" {
		m.actions = append(m.actions, []Action{{Kind: SetTablespace, SQL: "SET TABLESPACE " + catalog.Quote(m.Asked.Tablespace)}})
	}
}

// ofPartitions are actions after which a partition can still be attached.
var ofPartitions = []Kind{SetStorage, SetCompression, SetStatistics, SetColumnOptions, SetOptions, ResetOptions, SetTablespace, SetLogged, SetUnlogged}

// judgePartition refuses what a partition cannot have without the partitioned table.
func (m *Model) judgePartition() {
	if m.Source.Partition == nil {
		return
	}
	const why, remedy = "is not for a partition: it could not be attached to the partitioned table any more",
		"of a partition, only the order of the columns, the tablespaces and the storage can be changed"
	if m.Asked.ToBigint {
		m.refuse("--to-bigint", why, remedy)
	}
	for _, actions := range m.actions {
		for _, a := range actions {
			if !slices.Contains(ofPartitions, a.Kind) {
				m.refuse(a.SQL, why, remedy)
			}
		}
	}
}

// parseKey refuses an action on a foreign key, which the model does not have.
func (m *Model) parseKey(a Action) {
	for _, key := range m.Source.ForeignKeys {
		if (a.Kind == DropConstraint || a.Kind == RenameConstraint) && key.Name == a.Constraint {
			m.refuse("foreign key "+catalog.Quote(key.Name), "plain SQL drops or renames it in a moment", "do so before or after the repack")
		}
	}
}

// names reads the names of columns of the source, as SQL writes them.
func (m *Model) names(flag string, texts []string) (names []string) {
	for _, text := range texts {
		list, err := columnList(text)
		if err != nil {
			m.refuse(flag, err.Error(), "")
		}
		for _, name := range list {
			if _, there := m.Source.Column(name); !there {
				m.refuse(flag, "there is no column "+catalog.Quote(name), "")
			}
		}
		names = append(names, list...)
	}
	return names
}

// widen adds the actions of ToBigint.
func (m *Model) widen(ctx context.Context, q catalog.Querier) error {
	if !m.Asked.ToBigint {
		return nil
	}
	names := m.bigint()
	if m.Asked.Cascade { // the tables between have been altered before
		referring, err := ReadReferring(ctx, q, m.Source.OID, m.bigintKey())
		if err != nil {
			return err
		}
		for _, r := range referring {
			if r.OID == m.Source.OID && !slices.Contains(names, r.Name) {
				names = append(names, r.Name)
			}
		}
	}
	for _, name := range names {
		m.actions = append(m.actions, []Action{{Kind: AlterType, Column: name, SQL: "ALTER COLUMN " + catalog.Quote(name) + " TYPE bigint"}})
	}
	return nil
}

// bigintKey returns the columns of the key that become bigint.
func (m *Model) bigintKey() []string {
	if len(m.wide) > 0 {
		return m.wide
	}
	return m.Key.KeyColumns
}

// bigint returns the columns that ToBigint changes: those of the key, and those that refer to
// them from the table itself.
func (m *Model) bigint() (names []string) {
	narrow := func(name string) bool {
		c, _ := m.Source.Column(name)
		return c.Type == "integer" || c.Type == "smallint"
	}
	for _, name := range m.bigintKey() {
		switch {
		case !slices.Contains(m.Key.KeyColumns, name):
			m.refuse("--to-bigint", fmt.Sprintf("%s is no column of the key %s", catalog.Quote(name), catalog.Quote(m.Key.Name)), "use --alter for other columns")
		case narrow(name):
			names = append(names, name)
		}
	}
	for more := true; more; { // a column may refer to one that refers to the key
		more = false
		for _, key := range m.Source.ForeignKeys {
			for i, to := range key.RefColumns {
				if key.SelfReference() && slices.Contains(names, to) && narrow(key.Columns[i]) && !slices.Contains(names, key.Columns[i]) {
					names, more = append(names, key.Columns[i]), true
				}
			}
		}
	}
	return names
}

// PathSQL makes names in what the user writes be looked up in the schema of the table, and
// then in public.
const pathSQL = `SELECT set_config('search_path', concat_ws(', ', quote_ident($1), CASE WHEN to_regnamespace('public') IS NOT NULL THEN 'public' END, 'pg_temp'), true)`

const plainPathSQL = `SET LOCAL search_path = pg_catalog`

func (m *Model) make(ctx context.Context) (*Alteration, error) {
	was, numbers, err := m.create(ctx)
	if err != nil {
		return nil, err
	}
	m.own(was)
	a := &Alteration{Asked: m.Asked, Delta: catalog.Delta{Was: was}}
	var columns []*column
	var ofViews []checks.Reason // other reasons come first: they may be the cause
	err = m.undone(ctx, func() error {
		if ok, err := m.alter(ctx); err != nil || !ok {
			return err
		}
		is, now, err := m.read(ctx)
		if err != nil {
			return err
		}
		columns = m.columns(was, numbers, now, is)
		if err := m.downs(ctx, columns); err != nil {
			return err
		}
		a.Renames = interim(columns)
		for _, sql := range a.RenameBackSQL(m.name()) {
			if _, err := m.tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		if a.Delta.Is, _, err = m.read(ctx); err != nil {
			return err
		}
		m.own(a.Delta.Is)
		for _, c := range columns {
			c.is, _ = a.Delta.Is.Column(c.Target)
		}
		if err := m.arrange(ctx, a); err != nil || len(m.reasons) > 0 {
			return err
		}
		a.Views, ofViews, err = a.FindViews(ctx, m.tx, In{Table: m.Source, Copied: m.name(), Schema: m.Schema})
		return err
	})
	if err == nil && len(m.reasons) == 0 {
		err = m.ups(ctx, columns)
	}
	if err == nil && len(m.reasons) == 0 {
		err = m.judge(ctx, a, columns)
	}
	if len(m.reasons) == 0 {
		m.reasons = ofViews
	}
	if err != nil || len(m.reasons) > 0 {
		return nil, err
	}
	for _, c := range columns {
		if c.stored() {
			a.Columns = append(a.Columns, c.Column)
		}
	}
	return a, nil
}

// own gives the model's statistics objects the names and owners of the source's.
func (m *Model) own(model *catalog.Table) {
	for i, s := range model.Statistics {
		for _, o := range m.Source.Statistics {
			if o.Name.Name == s.Name.Name {
				model.Statistics[i].Name, model.Statistics[i].Owner = o.Name, o.Owner
			}
		}
	}
}

func (m *Model) name() catalog.Name { return m.Source.Name.In(m.Schema) }

// create creates the model. It returns its description, and the names of its columns by
// attribute number.
func (m *Model) create(ctx context.Context) (*catalog.Table, map[int16]string, error) {
	for _, sql := range m.Source.ModelSQL(m.name()) {
		if _, err := m.tx.Exec(ctx, sql); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", sql, err)
		}
	}
	return m.read(ctx)
}

const numbersSQL = `
SELECT attnum, attname::text
FROM   pg_attribute
WHERE  attrelid = $1 AND attnum > 0 AND NOT attisdropped`

const modelSQL = `SELECT $1::text::regclass::oid`

// read describes the model as it is.
func (m *Model) read(ctx context.Context) (*catalog.Table, map[int16]string, error) {
	var oid uint32
	if err := m.tx.QueryRow(ctx, modelSQL, m.name().String()).Scan(&oid); err != nil {
		return nil, nil, err
	}
	t, err := catalog.Read(ctx, m.tx, oid)
	if err != nil {
		return nil, nil, err
	}
	rows, err := m.tx.Query(ctx, numbersSQL, oid)
	if err != nil {
		return nil, nil, err
	}
	numbers, number, name := map[int16]string{}, int16(0), ""
	_, err = pgx.ForEachRow(rows, []any{&number, &name}, func() error { numbers[number] = name; return nil })
	return t, numbers, err
}

// undone runs work in a savepoint, and rolls it back.
func (m *Model) undone(ctx context.Context, work func() error) error {
	outer := m.tx
	defer func() { m.tx = outer }()
	return catalog.Undone(ctx, outer, func(tx pgx.Tx) error {
		m.tx = tx
		return work()
	})
}

// alter carries out the actions. ok is false if the server refuses one of them.
func (m *Model) alter(ctx context.Context) (ok bool, err error) {
	if _, err := m.tx.Exec(ctx, pathSQL, m.Source.Name.Schema); err != nil {
		return false, err
	}
	for _, actions := range m.actions {
		var texts []string
		for _, a := range actions {
			texts = append(texts, a.SQL)
		}
		text := strings.Join(texts, ", ")
		_, err := m.tx.Exec(ctx, fmt.Sprintf("ALTER TABLE %s %s", m.name(), text))
		if why, is := said(err); is {
			m.refuse("--alter "+text, why, "")
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	_, err = m.tx.Exec(ctx, plainPathSQL)
	return err == nil, err
}

// said returns what the server has said about a statement, if the statement is the cause of
// the error.
func said(err error) (why string, is bool) {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgerrcode.IsOperatorIntervention(pgErr.Code) || pgerrcode.IsConnectionException(pgErr.Code) ||
		pgerrcode.IsInsufficientResources(pgErr.Code) || pgErr.Code == pgerrcode.LockNotAvailable || pgerrcode.IsTransactionRollback(pgErr.Code) {
		return "", false
	}
	why = pgErr.Message
	for _, more := range []string{pgErr.Detail, pgErr.Hint} {
		if more != "" {
			why += "; " + more
		}
	}
	return why, true
}
