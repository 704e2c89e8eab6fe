// Package repack rewrites a PostgreSQL table while the application keeps writing to it.
//
// It copies the table into a shadow, keeps both in step, and swaps them in
// milliseconds. It uses only plain SQL.
//
// # Use
//
// New takes a connection configuration (of a pool: pool.Config().ConnConfig) and
// Options, and does not connect. Each method opens its own connections and closes them.
// The connections have settings of our own, so defaults of a role or database cannot
// change what a run does.
//
//   - Repack.Run takes the table through its stages
//   - Repack.Plan describes what Run would do, and changes nothing
//   - Repack.Status says how far each job is
//   - Repack.Verify compares the table with its copy
//   - Repack.Reset undoes a job before the swap
//   - Repack.Revert puts the old table back after the swap
//
// # State machine
//
// Run executes the stages from left to right, up to and including Options.Until.
//
//	pre_validate ─▶ setup ─▶ backfill ─▶ sync_schema ─▶ post_sync_update ─▶ swap ─▶ clean_up
//	     │            │         │             │                │             │         │
//	     ▼            └─────────┴── Reset ────┴────────────────┘             │         ▼
//	  no job                       │                                       Revert     done
//	                               ▼                                         │
//	                           resetting ─▶ reset           reverting ◀──────┘
//	                                                            │
//	                                                            ▼
//	                                                         reverted
//
// pre_validate is not recorded: the job begins with setup. The point between Reset and
// Revert is the exchange of the tables, in the middle of swap. Revert is possible until
// clean_up drops its triggers: from then on the old table misses writes, and only
// clean_up can continue.
//
// # Resuming
//
// The registry, a schema in the same database, has a row for each job. A stage's last
// write and the record of it commit together. So after an error, an interruption, a
// killed process or a restarted server, the same call continues where the job stands.
//
// One process at a time works on a table. It holds an advisory lock and has a claim in
// the job's row. If the connection is lost, a call connects again for Options.RetryFor,
// acquires the advisory lock again, and continues only if the claim is still its own.
//
// # Errors
//
// Use errors.As for types and errors.Is for values. After any error before the swap, the
// table has the rows that the application wrote. What the job has created stays for the
// next Run, and Reset removes it. After *DiskFullError it has been removed already, unless
// the error's field Release says why not.
//
//	error                              what to do
//	*UsageError                        correct the options
//	*RefusedError                      remove the reasons, or do not repack this table
//	*PrivilegesError                   have an administrator run the grants in it
//	*PoolerError                       connect to the server itself, or set Options.Pooler
//	*OIDsHeldError                     set Options.UpdateOID or Options.IgnoreOID, call again
//	*BusyError                         wait for the other process, or stop it
//	*LockTimeoutError, *SnapshotError  call again when the named sessions are done
//	*NotConvergingError, ErrPutOff     call again when the application writes less
//	*DiskFullError                     free space, call Run again: the job begins anew
//	*DriftError                        undo the DDL and call Run again, or call Reset
//	*OutlivedError                     change or delete such rows and call Run again
//	*VerifyError                       before the swap: call Reset. After it: do not revert
//	*ParityError                       report a bug; the exchange was rolled back
//	*StrandedError                     call Run or Revert: its text says which is possible
//	*RevertDriftError                  undo the DDL since the swap and call Revert again
//	*RestoredError                     call Reset: the job came with a dump
//	*NewerJobError, ErrNewerRegistry   use the newer version of repack
//	*NoJobError, ErrNoJob              nothing to do, or the name is wrong
//	ErrSwapped                         call Revert, or Run to finish
//	ErrNotSwapped                      call Reset to remove the job, or Run to continue it
//	ErrFinishing                       call Run to finish
//	ErrNothingToVerify                 call Run up to post_sync_update first
//	*InterruptedError                  the context ended: call again to continue
//
// After any other error, too, the same call may be made again.
//
// # Locks
//
// Each wait for a lock is bounded by Options.LockTimeout. A call that cannot acquire a
// lock releases what it has, tries again after a pause, and after Options.LockRetries
// returns *LockTimeoutError. README.md lists the strongest lock of each stage.
package repack
