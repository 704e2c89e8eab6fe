// Package migrations creates and upgrades the registry's tables.
//
// # Overview
//
// The migrations are the embedded files NNN_name.sql, which tern runs in order. They are Go
// templates: {{.schema}} is the quoted name of the registry's schema. The table
// schema_version in that schema holds the number of the last migration.
//
// Apply creates or upgrades the registry. Current only reads. Try checks whether Apply can
// create the registry, and rolls back.
//
// # Locks
//
// tern holds an advisory lock while it migrates, so that processes do not migrate at the same
// time. Only the registry's own tables are locked.
//
// # Failure handling
//
// A migration that fails rolls back; running again continues with it. ErrNewerRegistry means
// that a newer version of repack has upgraded the registry, and that this version must not
// use it. Event triggers may change what a migration creates; what they change on new
// tables is reverted.
package migrations
