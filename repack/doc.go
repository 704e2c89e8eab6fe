// Package repack rewrites a PostgreSQL table while the application keeps
// writing to it: it copies the table into a shadow, keeps the two in step,
// and swaps them in milliseconds. Only plain SQL is used.
//
// A job goes through stages, each of which commits together with its record in
// the registry, so that a run that was interrupted in any way goes on where it
// stood when it is started again:
//
//	pre_validate ─▶ setup ─▶ backfill ─▶ sync_schema ─▶ post_sync_update ─▶ swap ─▶ clean_up
//	                  │         │             │                │             │
//	                  └─────────┴── Reset ────┴────────────────┘          Revert
//
// New takes a connection configuration; a pool's is pool.Config().ConnConfig.
// Connections are opened from it with settings of our own, so that nothing a
// role or database has for a default can change what a run does.
package repack
