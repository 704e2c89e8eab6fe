package preflight

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/matviews"
	"github.com/repack-go/repack/stages/shadow"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/strategy"
)

// drySwap does with the copy of the dry build what the swap does with the shadow, by the
// same functions. It moves the copy to another schema, gives it what only a table in use
// has, captures its changes, retires it again and drops it. It locks only what the dry
// build has created, and what this refers to: at most ACCESS SHARE, or ROW EXCLUSIVE on a
// table that a rule writes to.
type drySwap struct {
	*Inspector
	tx      pgx.Tx
	copied  *catalog.Table // the description of the source, as its copy should have it
	dressed *catalog.Table // the description of the copy, as it is
	reasons []checks.Reason
}

// trySwap runs once the copy has everything that sync_schema gives it.
func (p *Inspector) trySwap(ctx context.Context, tx pgx.Tx) ([]checks.Reason, error) {
	copied, hidden, err := p.Source.CopyIn(ctx, tx, p.Job.OldSchema)
	if err != nil {
		return nil, err
	}
	if hidden {
		p.Log.Debug("triggers and rules are not tried: the table's name is hidden by another one", "table", p.Source.Name.String())
	}
	copied = p.Alteration.Target(copied)
	if err := steps.ExecAll(ctx, tx, []string{fmt.Sprintf("SET LOCAL lock_timeout = %d", max(p.Locks.Timeout.Milliseconds(), 1))}); err != nil {
		return nil, err
	}
	r := &drySwap{Inspector: p, tx: tx, copied: copied}
	ready, err := r.prepare(ctx)
	if err != nil || !ready {
		return r.reasons, err
	}
	for _, step := range []func(context.Context) error{r.dress, r.typed, r.behave, r.install, r.follow, r.same, r.retype, r.visit, r.replace, r.matviews, r.retire} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return r.reasons, nil
}

// try runs the statements that create an object: all of them or none. If the server
// refuses one, this is a reason to refuse the repack. ok tells whether the statements
// have succeeded.
func (r *drySwap) try(ctx context.Context, part catalog.Part, path ...string) (ok bool, err error) {
	if len(part.SQL) == 0 {
		return true, nil
	}
	statements := part.SQL
	if len(path) > 0 {
		statements = slices.Concat([]string{catalog.PathSQL(path...)}, part.SQL, []string{catalog.PathSQL("pg_catalog")})
	}
	err = steps.ExecEach(ctx, r.tx, statements)
	reason, refused := r.reason(ctx, part.Object, err)
	var pgErr *pgconn.PgError
	switch {
	case !refused:
		return err == nil, err
	case len(r.reasons) > 0 && errors.As(err, &pgErr) && pgErr.Code == pgerrcode.UndefinedObject:
		return false, nil // a consequence of another reason
	}
	if reason.Remedy == "" {
		reason.Remedy = "create it anew in a form that the server takes, or drop it for the time of the repack"
	}
	r.reasons = append(r.reasons, reason)
	return false, nil
}

// all calls try for parts that do not depend on each other.
func (r *drySwap) all(ctx context.Context, parts []catalog.Part, path ...string) error {
	for _, part := range parts {
		if _, err := r.try(ctx, part, path...); err != nil {
			return err
		}
	}
	return nil
}

// reason makes a Reason of an error if the error is about the table, or comes from what
// runs when such objects are created.
func (r *drySwap) reason(ctx context.Context, object string, err error) (checks.Reason, bool) {
	return reasonOf(ctx, r.tx, object, "would fail in the swap or after it: ", err)
}

// dress moves the copy and gives it what the swap gives a table, except its behaviour:
// triggers, rules, policies, row-level security and labels.
func (r *drySwap) dress(ctx context.Context) error {
	plain := *r.copied
	plain.Triggers, plain.Rules, plain.Policies, plain.Labels = nil, nil, nil, nil
	plain.RowSecurity, plain.ForceRowSecurity = false, false
	statements := append(r.builder().DressSQL(&plain), r.Source.DropBoundSQL(plain.Name)...)
	if _, err := r.try(ctx, catalog.Part{Object: "a copy of the table, put in its place", SQL: statements}); err != nil || len(r.reasons) > 0 {
		return err
	}
	granted, err := catalog.ReadGrants(ctx, r.tx, *r.Job.Shadow)
	if err != nil {
		return err
	}
	_, err = r.try(ctx, catalog.Part{Object: "privileges", SQL: shadow.GrantsSQL(granted, r.copied)})
	return err
}

const mayMakeSQL = `
SELECT coalesce(bool_and(has_schema_privilege(r.name, $2, 'USAGE') AND has_schema_privilege(r.name, $2, 'CREATE')), true)
FROM   unnest($1::text[]) r(name)`

// admit lets the roles that own or grant something use the schema for the copy, as they
// can use the table's schema. If the schema is our own, this is done right after the
// schema is created: after each of the two, the server plans all statements again.
func (p *Inspector) admit(ctx context.Context, tx pgx.Tx) ([]checks.Reason, error) {
	var grants []string
	for _, role := range p.Source.ActsAs() {
		grants = append(grants, fmt.Sprintf("GRANT USAGE, CREATE ON SCHEMA %s TO %s", catalog.Quote(p.Job.OldSchema), catalog.Quote(role)))
	}
	r := &drySwap{Inspector: p, tx: tx}
	_, err := r.try(ctx, catalog.Part{Object: "privileges on a schema for the copy", SQL: grants})
	return r.reasons, err
}

// prepare creates sequences in place of those that the table owns. The roles that own or
// grant something must be able to use the schemas. If a DBA has prepared the schemas and
// these roles cannot use them, the swap is not tried.
func (r *drySwap) prepare(ctx context.Context) (ready bool, err error) {
	if !r.Job.OwnSchemas {
		if ready, err := r.admitPrepared(ctx); err != nil || !ready {
			return false, err
		}
	}
	var sequences []string
	for _, s := range r.copied.Sequences {
		if !s.Identity {
			sequences = append(sequences, fmt.Sprintf("CREATE SEQUENCE %s", s.Name),
				fmt.Sprintf("ALTER SEQUENCE %s OWNER TO %s", s.Name, catalog.Quote(r.Source.Owner)))
		}
	}
	return r.try(ctx, catalog.Part{Object: "a sequence for the copy", SQL: sequences})
}

// admitPrepared does what admit does, in a schema that a DBA has prepared. ready is false
// if it does not succeed and the roles cannot use the schema anyway.
func (r *drySwap) admitPrepared(ctx context.Context) (ready bool, err error) {
	if _, err := r.admit(ctx, r.tx); err != nil {
		return false, err
	}
	place, roles := r.copied.Name.Schema, r.Source.ActsAs()
	if err := r.tx.QueryRow(ctx, mayMakeSQL, roles, place).Scan(&ready); err != nil {
		return false, fmt.Errorf("look at privileges on schema %q: %w", place, err)
	}
	if !ready {
		r.Log.Info("the swap is not tried beforehand: owners and grantors may not use the prepared schema", "schema", place, "roles", roles)
	}
	return ready, nil
}

// behave gives the copy triggers, rules, policies, flags and labels. Then it drops them
// and creates them again, from the copy's own description and with the search_path of the
// swap. With that search_path, an event trigger may not find what it calls.
func (r *drySwap) behave(ctx context.Context) error {
	if len(r.reasons) > 0 {
		return nil
	}
	parts := r.copied.Behaviour()
	if err := r.all(ctx, parts, r.copied.Name.Schema, r.Source.Name.Schema); err != nil || len(r.reasons) > 0 {
		return err
	}
	if !slices.ContainsFunc(parts, func(p catalog.Part) bool { return len(p.SQL) > 0 }) {
		return nil
	}
	is, err := catalog.Read(ctx, r.tx, *r.Job.Shadow)
	if err != nil {
		return err
	}
	ok, err := r.try(ctx, catalog.Part{Object: "its triggers, rules and policies", SQL: is.DropBehaviourSQL()})
	if err != nil || !ok {
		return err
	}
	return r.all(ctx, is.Behaviour())
}

// install gives the copy what InstallSQL gives the shadow.
func (r *drySwap) install(ctx context.Context) error {
	if len(r.reasons) > 0 {
		return nil
	}
	rest := *r.copied
	rest.Publications = nil
	if _, err := r.try(ctx, catalog.Part{Object: "defaults and sequences of the table", SQL: shadow.InstallSQL(&rest, r.Source.Name)}); err != nil {
		return err
	}
	return r.all(ctx, r.copied.Publishing())
}

const ownedSQL = `
SELECT proowner = (SELECT oid FROM pg_roles WHERE rolname = current_user)
FROM   pg_proc
WHERE  oid = to_regprocedure($1)`

// follow captures the changes of the copy, as setup and the exchange do for the table.
func (r *drySwap) follow(ctx context.Context) error {
	if len(r.reasons) > 0 {
		return nil
	}
	link := r.linkTo(r.copied.Name, r.Job.ShadowTable())
	statements := append(r.Strategy.Capture(link).SQL(), link.LogCapture().SQL()...)
	if _, err := r.try(ctx, catalog.Part{Object: "the capture of changes", SQL: statements}); err != nil || len(r.reasons) > 0 {
		return err
	}
	var owned bool
	if err := r.tx.QueryRow(ctx, ownedSQL, link.Capture.String()+"()").Scan(&owned); err != nil {
		return fmt.Errorf("look at the function that captures changes: %w", err)
	}
	if !owned {
		changed := &catalog.ChangedError{Kind: "FUNCTION", Object: link.Capture.String(), Undo: []string{"ALTER FUNCTION … OWNER TO CURRENT_USER"}}
		reason, _ := r.reason(ctx, "the capture of changes", changed)
		r.reasons = append(r.reasons, reason)
	}
	recompile, err := r.Source.RecompileSQL(ctx, r.tx, r.Job.ShadowSchema)
	if err != nil {
		return err
	}
	_, err = r.try(ctx, catalog.Part{Object: "functions that mention the table", SQL: recompile})
	return err
}

// same compares the copy with the table, as it is now. It leaves out definitions: their
// texts depend on the schema of a table, and the swap compares them.
func (r *drySwap) same(ctx context.Context) error {
	if len(r.reasons) > 0 {
		return nil
	}
	var err error
	if r.dressed, err = catalog.Read(ctx, r.tx, *r.Job.Shadow); err != nil {
		return err
	}
	return r.differ(ctx, "the table", r.copied.Bare(), r.dressed.Bare())
}

func (r *drySwap) readNamed(ctx context.Context, tx pgx.Tx, name catalog.Name) (*catalog.Table, error) {
	oid, err := steps.OIDOf(ctx, tx, name)
	if err != nil {
		return nil, err
	}
	return catalog.Read(ctx, tx, oid)
}

// differ makes a Reason of each difference.
func (r *drySwap) differ(ctx context.Context, object string, was, is *catalog.Table) error {
	differences, err := catalog.Diff(was, is)
	if err != nil {
		return err
	}
	for _, d := range differences {
		reason, err := withEventTriggers(ctx, r.tx, checks.Reason{Object: object, Why: "would be another after the swap: " + d.Text()}, "")
		if err != nil {
			return err
		}
		r.reasons = append(r.reasons, reason)
	}
	return nil
}

// replace replaces the objects that depend on the table. Each is tried by itself, because
// the copies on which they are tried may have the same name.
func (r *drySwap) replace(ctx context.Context) error {
	if r.untyped() {
		return nil
	}
	dependents, err := r.Source.TriedIn(ctx, r.tx, r.Job.ShadowSchema)
	if err != nil {
		return err
	}
	return r.alone(ctx, dependents)
}

func (r *drySwap) alone(ctx context.Context, dependents []catalog.Tried) error {
	for _, d := range dependents {
		err := r.apart(ctx, d.Object, func(apart *drySwap) error {
			_, err := apart.try(ctx, d.Part, d.Path...)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// apart runs work and rolls it back before the next part begins. It waits for a lock of
// another session no longer than the policy allows. If the wait times out, the part is
// not tried, and the log says so.
func (r *drySwap) apart(ctx context.Context, object string, work func(apart *drySwap) error) error {
	err := catalog.Undone(ctx, r.tx, func(tx pgx.Tx) error {
		apart := *r
		apart.tx = tx
		err := work(&apart)
		r.reasons = apart.reasons
		return err
	})
	if lock.Denied(err) {
		r.Log.Warn("not tried beforehand, as what it refers to is locked", "object", object, "error", err)
		return nil
	}
	return err
}

// matviews creates the successors of the materialized views, without rows, and replaces
// the objects that read them.
func (r *drySwap) matviews(ctx context.Context) error {
	if !r.Rebuilds() || r.untyped() {
		return nil
	}
	for _, m := range r.Source.Matviews {
		as := m.Relation.Name.In(r.Job.ShadowSchema)
		err := r.apart(ctx, as.String(), func(apart *drySwap) error { return apart.matview(ctx, m, as) })
		if err != nil {
			return err
		}
		dependents, err := m.Relation.TriedIn(ctx, r.tx, r.Job.ShadowSchema)
		if err != nil {
			return err
		}
		if err := r.alone(ctx, dependents); err != nil {
			return err
		}
	}
	return nil
}

func (r *drySwap) matview(ctx context.Context, m catalog.Matview, as catalog.Name) error {
	err := pgx.BeginFunc(ctx, r.tx, func(tx pgx.Tx) error {
		if err := steps.Do(ctx, tx, matviews.CreateAs(&m, as)...); err != nil {
			return err
		}
		if err := steps.ExecAll(ctx, tx, m.FinishSQL(as)); err != nil {
			return err
		}
		is, err := r.readNamed(ctx, tx, as)
		if err != nil {
			return err
		}
		was := m.Relation.Structure().Bare()
		is = is.Structure().Bare()
		is.Name, is.Statistics, is.Rules, was.Statistics = was.Name, nil, nil, nil
		if err := r.differ(ctx, fmt.Sprintf("materialized view %s", m.Relation.Name), was, is); err != nil {
			return err
		}
		return steps.ExecAll(ctx, tx, []string{catalog.MoveMatviewSQL(as, r.Job.OldSchema), "DROP MATERIALIZED VIEW " + as.In(r.Job.OldSchema).String()})
	})
	reason, refused := r.reason(ctx, fmt.Sprintf("materialized view %s", m.Relation.Name), err)
	if refused {
		r.reasons = append(r.reasons, reason)
		return nil
	}
	return err
}

// retire moves the copy out of the way, as the exchange does with the table, and drops
// everything that was created, as clean_up does.
func (r *drySwap) retire(ctx context.Context) error {
	if len(r.reasons) > 0 {
		return nil
	}
	parked := r.Job.ShadowTable()
	statements := append(shadow.DropKeysSQL(r.copied), shadow.RetireSQL(r.dressed, parked)...)
	for _, s := range r.copied.Sequences {
		if !s.Identity {
			statements = append(statements, "DROP SEQUENCE "+s.Name.String())
		}
	}
	_, err := r.try(ctx, catalog.Part{Object: "the table, put out of the way", SQL: statements})
	if err != nil || len(r.reasons) > 0 {
		return err
	}
	_, err = r.try(ctx, catalog.Part{Object: "what is dropped at the end", SQL: slices.Concat(r.dressed.DropTypedSQL(parked), []string{steps.DropSQL("TABLE", parked.String())}, r.builder().DropArtefactsSQL(""))})
	return err
}

// linkTo returns the link for the dry build.
func (p *Inspector) linkTo(from, to catalog.Name) *strategy.Link {
	l := *p.Link
	l.From, l.To = from, to
	return &l
}
