package catalog

// LikeIndexesSQL selects, for each index of table $1 that is attached to an index of the
// parent, the indexes that ATTACH PARTITION could attach in its place: attached and other
// are the OIDs of the two, parent and other_parent those of what they are attached to. ATTACH
// looks at the indexes of the parent in the order of their OIDs. For each it takes the first
// index of the table, in the order of their OIDs too, that is like it and not yet taken. To
// the server (CompareIndexInfo in its index.c), ASC and DESC are alike, and so are the
// operator classes of a family. Only the index of a constraint is like the index of a
// constraint.
//
// It looks up in subqueries what it could join: the server tries all orders of a join, and
// does so for each session.
const LikeIndexesSQL = `
SELECT a.indexrelid AS attached, h.inhparent AS parent, b.indexrelid AS other,
       (SELECT inhparent FROM pg_inherits WHERE inhrelid = b.indexrelid) AS other_parent
FROM   pg_index a
JOIN   pg_inherits h ON h.inhrelid = a.indexrelid
JOIN   pg_index b    ON b.indrelid = a.indrelid AND b.indexrelid <> a.indexrelid AND b.indisunique = a.indisunique
                    AND b.indkey = a.indkey AND b.indnkeyatts = a.indnkeyatts AND b.indcollation = a.indcollation
WHERE  a.indrelid = $1
AND    (SELECT relam FROM pg_class WHERE oid = b.indexrelid) = (SELECT relam FROM pg_class WHERE oid = a.indexrelid)
AND    to_jsonb(b) -> 'indnullsnotdistinct' IS NOT DISTINCT FROM to_jsonb(a) -> 'indnullsnotdistinct'
AND    ARRAY(SELECT o.opcfamily FROM unnest(b.indclass::oid[]) WITH ORDINALITY c (id, n) JOIN pg_opclass o ON o.oid = c.id ORDER BY c.n)
     = ARRAY(SELECT o.opcfamily FROM unnest(a.indclass::oid[]) WITH ORDINALITY c (id, n) JOIN pg_opclass o ON o.oid = c.id ORDER BY c.n)
AND    pg_get_expr(b.indexprs, b.indrelid) IS NOT DISTINCT FROM pg_get_expr(a.indexprs, a.indrelid)
AND    pg_get_expr(b.indpred, b.indrelid) IS NOT DISTINCT FROM pg_get_expr(a.indpred, a.indrelid)
AND   (NOT EXISTS (SELECT FROM pg_constraint k
                   WHERE  k.conrelid = (SELECT indrelid FROM pg_index WHERE indexrelid = h.inhparent) AND k.conindid = h.inhparent
                   AND    k.contype IN ('p', 'u', 'x'))
       OR EXISTS (SELECT FROM pg_constraint k
                  WHERE  k.conrelid = b.indrelid AND k.conindid = b.indexrelid AND k.contype IN ('p', 'u', 'x')))`
