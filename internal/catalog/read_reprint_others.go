package catalog

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
)

// triedDependent is an object elsewhere, with what is needed to try it.
type triedDependent struct {
	Dependent
	tail       string   // the end of the object's own Replace
	statements []string // statements that create an object like it
}

// scratchDependents are queries, by kind of object. Each returns two things about
// object $1: the text that its own Replace ends with, and the statements that create an
// object like it in schema $2. With $3 the query returns the same about the object that
// those statements have created.
var scratchDependents = map[string]string{
	"view":      scratchViewSQL,
	"rule":      scratchRuleSQL,
	"policy":    scratchPolicySQL,
	"function":  scratchFunctionSQL,
	"procedure": scratchFunctionSQL,
	"default":   scratchDefaultSQL,
}

const scratchViewSQL = `
SELECT v.tail, ARRAY[format(E'CREATE VIEW %I.repack_view AS\n', $2::text) || v.tail]
FROM  (SELECT rtrim(pg_get_viewdef(CASE WHEN $3::bool THEN to_regclass(format('%I.repack_view', $2::text))::oid ELSE $1::oid END), ';') AS tail) v`

const scratchRuleSQL = `
SELECT substr(r.definition, length(r.head || r.own) + 1),
       ARRAY[format('CREATE TABLE %I.%I (LIKE %s)', $2::text, r.relname, r.own),
             r.head || format('%I.%I', $2::text, r.relname) || substr(r.definition, length(r.head || r.own) + 1)]
FROM  (SELECT pg_get_ruledef(r.oid)                AS definition,
              format(E'CREATE RULE %I AS\n    ON %s TO ', r.rulename,
                     CASE r.ev_type WHEN '1' THEN 'SELECT' WHEN '2' THEN 'UPDATE' WHEN '3' THEN 'INSERT' ELSE 'DELETE' END)
                                                   AS head,
              format('%I.%I', n.nspname, c.relname) AS own,
              c.relname
       FROM   pg_rewrite r
       JOIN   pg_class c     ON c.oid = r.ev_class
       JOIN   pg_namespace n ON n.oid = c.relnamespace
       WHERE  r.oid = CASE WHEN $3::bool
                           THEN (SELECT s.oid
                                 FROM   pg_rewrite o
                                 JOIN   pg_class oc  ON oc.oid = o.ev_class
                                 JOIN   pg_rewrite s ON s.rulename = o.rulename
                                                    AND s.ev_class = to_regclass(format('%I.%I', $2::text, oc.relname))
                                 WHERE  o.oid = $1)
                           ELSE $1::oid END) r
WHERE  starts_with(r.definition, r.head || r.own)`

// A policy's expressions contain the bare name of its table, so the scratch table has
// the same name.
const scratchPolicySQL = `
SELECT p.tail,
       ARRAY[format('CREATE TABLE %I.%I (LIKE %I.%I)', $2::text, p.relname, p.nspname, p.relname),
             format('CREATE POLICY %I ON %I.%I FOR %s', p.polname, $2::text, p.relname, p.command) || p.tail]
FROM  (SELECT p.polname, c.relname, n.nspname,
              CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                            WHEN 'd' THEN 'DELETE' ELSE 'ALL' END AS command,
              coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
              || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '') AS tail
       FROM   pg_policy p
       JOIN   pg_class c     ON c.oid = p.polrelid
       JOIN   pg_namespace n ON n.oid = c.relnamespace
       WHERE  p.oid = CASE WHEN $3::bool
                           THEN (SELECT s.oid
                                 FROM   pg_policy o
                                 JOIN   pg_class oc ON oc.oid = o.polrelid
                                 JOIN   pg_policy s ON s.polname = o.polname
                                                   AND s.polrelid = to_regclass(format('%I.%I', $2::text, oc.relname))
                                 WHERE  o.oid = $1)
                           ELSE $1::oid END) p`

// A function's body may refer to parameters by the function's bare name, so the scratch
// function has the same name.
const scratchFunctionSQL = `
SELECT substr(f.definition, length(f.head || f.own) + 1),
       ARRAY[f.head || format('%I.%I', $2::text, f.proname) || substr(f.definition, length(f.head || f.own) + 1)]
FROM  (SELECT pg_get_functiondef(p.oid)              AS definition,
              CASE p.prokind WHEN 'p' THEN 'CREATE OR REPLACE PROCEDURE ' ELSE 'CREATE OR REPLACE FUNCTION ' END AS head,
              format('%I.%I', n.nspname, p.proname)  AS own,
              p.proname
       FROM   pg_proc p
       JOIN   pg_namespace n ON n.oid = p.pronamespace
       WHERE  p.oid = CASE WHEN $3::bool
                           THEN (SELECT s.oid
                                 FROM   pg_proc o
                                 JOIN   pg_namespace m ON m.nspname = $2::text
                                 JOIN   pg_proc s      ON s.pronamespace = m.oid AND s.proname = o.proname
                                                      AND s.proargtypes = o.proargtypes
                                 WHERE  o.oid = $1)
                           ELSE $1::oid END) f
WHERE  starts_with(f.definition, f.head || f.own)`

const scratchDefaultSQL = `
SELECT pg_get_expr(d.adbin, d.adrelid),
       ARRAY[format('CREATE TABLE %I.%I (LIKE %I.%I)', $2::text, d.relname, d.nspname, d.relname),
             format('ALTER TABLE %I.%I ALTER COLUMN %I SET DEFAULT %s', $2::text, d.relname, d.attname, pg_get_expr(d.adbin, d.adrelid))]
FROM  (SELECT e.adbin, e.adrelid, a.attname, c.relname, n.nspname
       FROM   pg_attrdef e
       JOIN   pg_class c     ON c.oid = e.adrelid
       JOIN   pg_namespace n ON n.oid = c.relnamespace
       JOIN   pg_attribute a ON a.attrelid = c.oid AND a.attnum = e.adnum
       WHERE  e.oid = CASE WHEN $3::bool
                           THEN (SELECT s.oid
                                 FROM   pg_attrdef o
                                 JOIN   pg_class oc     ON oc.oid = o.adrelid
                                 JOIN   pg_attribute oa ON oa.attrelid = oc.oid AND oa.attnum = o.adnum
                                 JOIN   pg_attribute sa ON sa.attrelid = to_regclass(format('%I.%I', $2::text, oc.relname))
                                                       AND sa.attname = oa.attname
                                 JOIN   pg_attrdef s    ON s.adrelid = sa.attrelid AND s.adnum = sa.attnum
                                 WHERE  o.oid = $1)
                           ELSE $1::oid END) d`

// learnDependent creates an object like d and notes how its definition reads.
func (r *Reprints) learnDependent(ctx context.Context, tx pgx.Tx, schema string, d triedDependent) error {
	head, ok := strings.CutSuffix(d.Replace, d.tail)
	if !ok {
		return nil
	}
	_, err := tx.Exec(ctx, again+strings.Join(Unchecked(d.statements), ";\n"))
	if err == nil {
		var becomes string
		var ignored []string
		if err = tx.QueryRow(ctx, scratchDependents[d.Kind], d.OID, schema, true).Scan(&becomes, &ignored); err == nil {
			r.note(definition{d.Kind, d.Replace}, head+becomes)
		}
	}
	if errors.Is(err, pgx.ErrNoRows) || err != nil && !fatal(ctx, err) {
		return nil // the next try begins at the savepoint
	}
	return err
}
