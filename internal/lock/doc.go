// Package lock acquires table locks without making the application wait for long.
//
// # Overview
//
// A session that waits for a strong lock blocks every session that requests a conflicting
// lock after it. Therefore every wait is bounded, and all locks of one transaction share one
// bound.
//
// The bound is below the server's deadlock_timeout. A session looks for deadlocks only after
// it has waited for deadlock_timeout. So in a deadlock with the application it is always our
// session that times out, never the application's. In addition we look for deadlocks every
// few milliseconds, and cancel our own wait.
//
// # Types
//
//   - Policy says how long and how often to try.
//   - Transact runs work in a transaction, again if a lock was not granted.
//   - Tx is that transaction. Tx.Lock acquires one lock, Tx.LockAll several. Tx.Settle waits
//     for autovacuum before a strong lock. Tx.Works bounds the time under the locks.
//   - Pairs acquires two locks that the application acquires in either order.
//   - Blocker is a session or prepared transaction for which we have waited.
//
// # An attempt
//
//	look for holders ──▶ request locks ──▶ work ──▶ COMMIT
//	      │                    │             │
//	      │ holds too long     │ time-out    │ takes too long
//	      ▼                    ▼             ▼
//	wait outside         ROLLBACK, pause, next attempt
//	the lock queue
//
// If a holder will probably not release its lock in time, the lock is not requested. While
// we wait outside the queue, no session waits behind us.
//
// # Failure handling
//
// After the last attempt Transact and Pairs.Try return *TimeoutError with the blockers of the
// last attempt. Nothing has changed, and the same command may run again. With
// Policy.KillAfter, blockers are cancelled and then terminated. All other errors are returned
// at once. Denied and Moved classify errors by SQLSTATE.
//
// https://www.postgresql.org/docs/current/explicit-locking.html
package lock
