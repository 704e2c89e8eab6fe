// Package pgserver finds the PostgreSQL server programs of this machine and
// runs a throwaway server with them: a fresh data directory, reachable only
// through a Unix socket in that directory, gone after Close.
//
// The tests and `repack demo` use it. It is not for data anybody wants to
// keep: fsync is off.
package pgserver
