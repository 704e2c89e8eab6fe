// Package registry records jobs in the database: the row of each job, the history of its
// stages, the chunks of its backfill, its verifications, and the advisory lock of the
// process that runs it.
//
// # Overview
//
// A Job is one repack of one table. A Registry reads and writes jobs in one schema. A Runner
// is the process that works on a job. Package migrations creates the tables.
//
// # Stages
//
// A stage is what the job does. The stages run in this order:
//
//	pre_validate ─▶ setup ─▶ backfill ─▶ sync_schema ─▶ post_sync_update ─▶ swap ─▶ clean_up
//
// pre_validate changes nothing, so a job is never in it. The row of a job is written at the
// end of setup. Job.Stage is the latest stage that has begun, and Job.StageDone says whether
// it is complete.
//
// # States
//
// A state says which operation the job is in:
//
//	                  swap: SwappedAt is set
//	                      │
//	         ┌────────────┴───────────┐
//	         │         Active         │
//	         └─┬──────────┬─────────┬─┘
//	reset      │   revert │         │ clean_up
//	before swap│   after  │         │ after swap
//	           ▼   swap   ▼         ▼
//	       Resetting  Reverting  Finishing
//	           │          │         │
//	           ▼          ▼         ▼
//	         Reset     Reverted    Done
//
// A job that is Reverting, Resetting or Finishing can only complete that operation:
// Resetting and Finishing jobs no longer capture changes, and for a Reverting job the source
// is back in its place. If the table is gone, a job may end without the state in between.
// In the last row nothing of the job is left: see State.Over.
//
// # Failure handling
//
// Two mechanisms keep a second process away from a job:
//
//   - TryLock acquires a session-level advisory lock on the OID of the source. It is released
//     when the connection ends, also when the process is killed.
//   - Claim writes a random token to the job row. A write to the job row names the token and
//     returns ErrStageMoved if the job has another one. Records about a stop and about
//     locks (Fail, Interrupt, Release, NoteLocked) change nothing instead.
//
// A process may lose its connection, and so the advisory lock, without noticing. Fence
// protects against that: it locks the job row until the transaction ends, and Claim waits
// for it.
//
// EndStage and QueueChunk run in the transaction whose work they record. So a crash loses
// both or neither, and the next run continues from the last commit.
package registry
