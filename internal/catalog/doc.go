// Package catalog owns the description of a table, and the SQL text that makes a
// table like it.
//
// There is one description, Table. It is read from pg_catalog by OID and has four
// uses: to build the shadow, to notice DDL during a job, to compare the tables in the
// swap, and to refuse what cannot be carried over.
//
// # Main types
//
//   - Table: columns, constraints, indexes, foreign keys of the table and to it,
//     sequences, grants, triggers, rules, policies, publications and so on
//   - Partition: the place of a table in a partitioned table
//   - Dependent: a view, rule, policy or function elsewhere that refers to the table
//   - Matview: a materialized view on the table, with a Table of its own
//   - Difference: one property in which two descriptions differ
//   - Reprints: how the server prints a definition after it has parsed it once more
//
// # Reading
//
// Read takes an OID. Each property has a list: one query, and a function that takes
// its rows.
//
//	relation, columns, constraints, … ──▶ one list each   (everything in read.go)
//	lists ──▶ one statement: SELECT … FROM (list 0) UNION ALL SELECT … FROM (list 1) …
//	rows  ──▶ list number, row number, row as JSON ──▶ fields of Table
//
// One statement is one round trip, and the server plans it once for a connection.
// That matters because the swap reads a description while it holds locks. What few tables
// have (Extras) is in statements of its own, which go together with the first one if an
// earlier description had it. Materialized views are described in another round trip,
// because their OIDs must be known first.
//
// The session's search_path must be pg_catalog. Then the server qualifies every other
// name in a definition.
//
// To add a property: add a field to Table, its query and ask function, the latter to
// everything, and a test. If few tables have it, it is an extra, with a condition.
//
// # Comparing
//
// A table and its faithful copy have equal descriptions, because a comparison sees no
// OIDs of sub-objects and no attribute numbers. (The OID of a Matview is one of another
// relation.) Diff encodes both descriptions as JSON and compares them property by
// property. It matches members of lists by name. Fields with the tag json:"-" are not
// compared, and not stored.
//
// The server may print the same definition in two ways: see Reprints. Methods such as
// Structure, WithoutLinks, Bare and WithKeys return a copy of a description without
// the properties that a certain comparison must ignore.
//
// # Storing
//
// A job stores the description of its table (Encode). A later run, perhaps of another
// version, reads it (Decode). Diff ignores a property that the older version did not
// know. A description of a newer version is refused with *NewerError.
//
// # SQL
//
// Methods whose names end in SQL return statements and run nothing. Where the comment
// on such a method names a lock, the statement acquires that lock when it runs, and
// the server releases it at the end of the transaction. Lock modes are those of
// "ALTER TABLE" and "Explicit Locking" in PostgreSQL's manual:
//
// https://www.postgresql.org/docs/current/sql-altertable.html
//
// https://www.postgresql.org/docs/current/explicit-locking.html
package catalog
