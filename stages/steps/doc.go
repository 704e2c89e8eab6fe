// Package steps is what every stage and every mechanism shares.
//
// Worker is the process that works on a job: the pool, the registry, the claim on the job,
// the job's row, the link between table and copy, and the transactions that check the
// claim.
//
// Transaction is a step as data, and Action one thing that it does. Worker carries them
// out, and Planner prints them.
package steps
