// Package stages takes a job through its stages. What a stage has done and its record in
// the registry commit together. So a job continues from its last committed step, however
// its process ended.
//
// # Packages
//
// Imports go one way, from left to right and from top to bottom:
//
//	cmd/repack ─ repack ─ stages ─┬─ stages/preflight   what cannot be carried over
//	               │              ├─ stages/neighbours  foreign keys of other tables
//	               │              ├─ stages/shadow      the shadow, from its creation to its place
//	               │              ├─ stages/copier      copying the rows
//	               │              ├─ stages/replay      the replay of the change log
//	               │              ├─ stages/matviews    materialized views, built again
//	               │              ├─ stages/control     what a run is told from elsewhere
//	               │              ├─ stages/signals     limits of the server and around it
//	               │              │      │
//	               │              ├─ stages/steps       what all of them share
//	               │              │      │
//	               │              ├─ stages/alter       what a run changes of the table
//	               │              ├─ stages/oids        OIDs of the table stored as data
//	               │              ├─ stages/checks      what is refused, one check for each
//	               │              ├─ stages/compare     table and copy, while both change
//	               │              ├─ stages/chunker     ranges of blocks for workers
//	               │              ├─ stages/builds      how indexes are built
//	               │              ├─ stages/snapshots   waiting for older snapshots
//	               │              └─ stages/throttle    whether work may go on
//	               │                     │
//	           migrations            strategy           how a write reaches the copy
//	               │                     │
//	               │                 registry           the job's row, its lock
//	               │                     │
//	               └──────────── internal/catalog, internal/lock, internal/session
//
// internal/tooling is for tests, the demo and the benchmark: the product does not need
// it.
//
// # Stages
//
// Run executes the stages in their order. Each stage is in the file of its name, and uses
// these packages:
//
//	pre_validate      prevalidate.go      preflight
//	setup             setup.go            shadow, preflight
//	backfill          backfill.go         copier
//	sync_schema       syncschema.go       shadow, replay
//	post_sync_update  postsyncupdate.go   replay, compare (verify.go)
//	swap              swap.go             replay, neighbours, shadow, matviews, preflight;
//	                                      exchange.go, exchanging.go, following.go
//	clean_up          cleanup.go          shadow, replay
//
// The inverses are revert.go and reset.go. restored.go is for a job that a dump has
// brought to another database.
//
// # Steps
//
// A step of a stage is data: a transaction says what it does, the locks that it takes, and
// its actions in order. What is read between two statements is an action too. Run carries
// a transaction out, and NewPlan prints it, so the order of statements is written once. The
// file of each stage has the function that runs its transactions, and the one that plans
// them. plan.go and the files that begin with plan_ have the rest of a plan.
//
// # Types
//
// steps.Worker is what every stage and every mechanism shares: the pool, the registry, the
// claim on the job, the job's row, the link between table and copy, and the transactions
// that check the claim. steps.Request is a worker with what the user asks of the job. Each
// mechanism has a type of its own, with one of these two and the options that it needs. Env
// has all options of a run, and makes the mechanisms from them.
//
// # Failures
//
// A transaction that cannot commit changes nothing, and the next run does its work again.
// A process that has lost its claim can no longer commit. The registry records a failure.
// If DDL on the table may be the cause, the error is a *steps.DriftError that names the DDL.
package stages
