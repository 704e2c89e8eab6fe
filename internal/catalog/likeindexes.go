package catalog

// LikeIndexesSQL selects, for each index of table $1 that is attached to an index of the
// parent, the indexes that ATTACH PARTITION could attach in its place: attached and other
// are the OIDs of the two, parent and other_parent those of what they are attached to. ATTACH
// looks at the indexes of the parent in the order of their OIDs. For each it takes the first
// index of the table, in the order of their OIDs too, that is like it and not yet taken. To
// the server (CompareIndexInfo in its index.c), ASC and DESC are alike, and so are the
// operator classes of a family. Only the index of a constraint is like the index of a
// constraint.
const LikeIndexesSQL = `
SELECT a.indexrelid AS attached, h.inhparent AS parent, b.indexrelid AS other, g.inhparent AS other_parent
FROM   pg_index a
JOIN   pg_inherits h ON h.inhrelid = a.indexrelid
JOIN   pg_index up   ON up.indexrelid = h.inhparent
JOIN   pg_class ac   ON ac.oid = a.indexrelid
JOIN   pg_index b    ON b.indrelid = a.indrelid AND b.indexrelid <> a.indexrelid AND b.indisunique = a.indisunique
                    AND b.indkey = a.indkey AND b.indnkeyatts = a.indnkeyatts AND b.indcollation = a.indcollation
JOIN   pg_class bc   ON bc.oid = b.indexrelid AND bc.relam = ac.relam
LEFT   JOIN pg_inherits g ON g.inhrelid = b.indexrelid
WHERE  a.indrelid = $1
AND    to_jsonb(b) -> 'indnullsnotdistinct' IS NOT DISTINCT FROM to_jsonb(a) -> 'indnullsnotdistinct'
AND    ARRAY(SELECT o.opcfamily FROM unnest(b.indclass::oid[]) WITH ORDINALITY c (id, n) JOIN pg_opclass o ON o.oid = c.id ORDER BY c.n)
     = ARRAY(SELECT o.opcfamily FROM unnest(a.indclass::oid[]) WITH ORDINALITY c (id, n) JOIN pg_opclass o ON o.oid = c.id ORDER BY c.n)
AND    pg_get_expr(b.indexprs, b.indrelid) IS NOT DISTINCT FROM pg_get_expr(a.indexprs, a.indrelid)
AND    pg_get_expr(b.indpred, b.indrelid) IS NOT DISTINCT FROM pg_get_expr(a.indpred, a.indrelid)
AND   (NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = up.indrelid AND k.conindid = up.indexrelid AND k.contype IN ('p', 'u', 'x'))
       OR EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = b.indrelid AND k.conindid = b.indexrelid AND k.contype IN ('p', 'u', 'x')))`
