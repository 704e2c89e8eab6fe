// Package pgtest gives every test its own database on a real PostgreSQL server,
// and the means to judge a result without the code under test: row comparisons,
// checksums and dumps of the schema.
//
// One server serves a test process: it starts at the first New and ends in
// Main. Which one it is, pgserver.Find says; REPACK_PG_BINDIR chooses another
// major version. Its files are in memory where Linux has 4 GB of that to spare: a
// new database took 10 to 40 ms there, and 150 to 1000 ms on ext4, with two
// processors that others used too.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		t.Parallel()
//		db := pgtest.New(t)
//		db.Exec(t, `CREATE TABLE orders (id bigint PRIMARY KEY)`)
//	}
package pgtest
