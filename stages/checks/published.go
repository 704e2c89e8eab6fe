package checks

// Allowed says which things that a run is refused for by default the user has allowed.
type Allowed struct {
	Matviews  bool // materialized views on the table: they are rebuilt
	Published bool // publications FOR ALL TABLES
}

// allTablesPublication: such a publication has all that repack writes to its own tables.
// A subscriber that is a PostgreSQL server stops at the first table that it lacks.
var allTablesPublication = Check{
	`SELECT 'publication ' || quote_ident(pubname) FROM pg_publication WHERE puballtables AND NOT $3`,
	"is FOR ALL TABLES, and so it also publishes repack's own tables and the copy with all its rows: a subscriber that lacks these tables stops with an error",
	"publish the tables by name or by schema, or prepare the subscribers and allow it with --published-ok",
}

// publishedWithoutIdentity: the server would let no row of the shadow be changed. The
// application cannot change the table's rows either.
//
// https://www.postgresql.org/docs/current/logical-replication-publication.html, "Replica
// Identity"
var publishedWithoutIdentity = Check{
	`SELECT 'publication ' || quote_ident(p.pubname)
	 FROM   pg_publication p
	 JOIN   pg_class c ON c.oid = $1
	 WHERE  $3 AND p.puballtables AND (p.pubupdate OR p.pubdelete) AND c.relpersistence = 'p'
	 AND   (c.relreplident = 'n'
	        OR c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary AND indimmediate))`,
	"publishes changes of rows, and the table has no replica identity, so that the server would refuse to change the rows of its copy",
	"ALTER TABLE … REPLICA IDENTITY FULL, or USING INDEX",
}
