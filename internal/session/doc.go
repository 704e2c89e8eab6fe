// Package session opens connections whose settings do not depend on what a role, a database
// or an environment variable has set as a default.
//
// # Overview
//
// A Target is a server, and the connection pooler that may be in between. These functions
// open connections to it:
//
//   - Connect and Pool force all our settings: see Configure.
//   - ConnectAsIs keeps the settings of the role and of the connection string, and removes
//     only time-outs.
//   - Unset sets nothing. It is for diagnosis.
//
// Our settings are set by statements after the connection is open, not in the startup message,
// because a pooler would keep or refuse them there.
//
// # Connection poolers
//
// Session settings and advisory locks need one server session per client. A pooler that
// gives our session to the application would give it our settings too. Direct detects a
// pooler by the process id of the backend, before anything is set. Connections through a
// pooler are refused with *PoolerError, unless Target.Pooler is SessionPooler and the pooler
// is found to keep sessions.
//
// # Failure handling
//
// Failed reduces the error of a connection attempt to the reason that matters. Lost reports
// whether an error comes only from a lost connection, so that the operation may be tried
// again on another one. If the server has too many connections, opening one is tried again
// for 2 s.
package session
