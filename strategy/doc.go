// Package strategy defines how writes to a table reach its copy: capture by triggers, the
// backfill of a range of blocks, and the replay of the change log. It knows two relations
// and the log between them. It knows nothing of stages, and never commits: the caller owns
// every transaction.
//
// # Overview
//
// Link describes the two relations: From, which the application writes to, and To, the
// copy. Before the swap From is the source and To the shadow; after the swap From is the
// new table and To the old table. Link builds all SQL for capture and replay.
//
// Capture is a trigger function with its triggers. There are three kinds:
//
//   - LogCapture appends the keys of changed rows to the change log.
//   - WriteThrough also tries to make the change to the copy, and logs the keys if it
//     cannot.
//   - RowByRow makes each change to the copy, and logs nothing except a TRUNCATE above
//     READ COMMITTED. It is used while foreign keys are moved one by one.
//
// Strategy is what differs during the backfill. ChangeLog and DirectTrigger implement it.
//
// Comparison verifies that both relations have the same rows.
//
// # How a write reaches the copy
//
// With change-log the trigger logs the key. The backfill may copy the row before or after
// the change; the replay reads the current row by the key.
//
//	INSERT, UPDATE, DELETE ──▶ From ──trigger──▶ change log ──replay──▶ To
//	                            │                                       ▲
//	                            └──────── backfill, no row locks ───────┘
//
// With direct-trigger the trigger writes to the copy in the application's transaction. The
// backfill locks the rows of a chunk FOR SHARE. It logs the keys of rows that it cannot
// lock at once.
//
//	                                    ┌──write-through──────────────────────┐
//	INSERT, UPDATE, DELETE ──▶ From ──trigger                                 ▼
//	                            │       └──on error──▶ change log ──replay──▶ To
//	                            │                          ▲                  ▲
//	                            └── backfill, FOR SHARE ───┴──────────────────┘
//
// Writers above READ COMMITTED log as long as their snapshot may be older than rows of the
// copy. Both strategies log a TRUNCATE: the replay deletes the rows that From no longer has.
//
// After the backfill both strategies log. Shortly before the swap both write through, so
// that table and copy stay equal.
//
// # Failure handling
//
// LogCapture and WriteThrough catch the errors of writing to the copy, and the key is in the
// log. These errors reach the application: an error of appending to the log (a full disk,
// for example), a cancelled statement, a serialization failure while MirrorSince is set, and
// any error of RowByRow, because a copy that lags would be worse.
//
// A log row is deleted in the same transaction that replays its key. A replay that fails
// rolls back and may run again. ReplayRange may defer keys whose row is locked: it puts them
// back into the log.
//
// Collision tells errors that come from rows of different moments. The caller may then
// call RemoveLogged, which leaves only rows that have not changed since capture began, and
// replay again.
//
// ErrNotCapturing is final for a job: the triggers were dropped, disabled or replaced, and
// changes may be missing.
package strategy
