package session

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// Lost reports whether the only cause of err is a connection that has ended or could
// not be opened. Then the operation may be tried again on another connection. It is
// false if a context was cancelled or has timed out.
//
// A connection that is lost during COMMIT leaves the outcome unknown: read it before
// trying again.
func Lost(err error) bool {
	lost := false
	var look func(err error) (other bool)
	look = func(err error) (other bool) {
		switch e := err.(type) { //nolint:errorlint // every error of the tree is looked at
		case nil:
			return false
		case *pgconn.PgError:
			if !lostCode(e.Code) {
				return e.Code != pgerrcode.QueryCanceled && e.Code != pgerrcode.InFailedSQLTransaction
			}
			lost = true
			return false
		case *net.OpError, *net.DNSError, *pgconn.ConnectError:
			lost = true
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF || err == net.ErrClosed || pgconn.SafeToRetry(err) {
			lost = true
		}
		switch e := err.(type) { //nolint:errorlint // as above
		case interface{ Unwrap() []error }:
			for _, part := range e.Unwrap() {
				other = look(part) || other
			}
			return other
		default:
			return look(errors.Unwrap(err))
		}
	}
	return !look(err) && lost && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// lostCode reports whether a SQLSTATE is about the connection and not about the
// statement. A server without a free connection may be one that has just started, for
// example.
//
// https://www.postgresql.org/docs/current/errcodes-appendix.html
func lostCode(code string) bool {
	switch code {
	case pgerrcode.AdminShutdown, pgerrcode.CrashShutdown, pgerrcode.CannotConnectNow, pgerrcode.TooManyConnections,
		pgerrcode.IdleSessionTimeout, pgerrcode.IdleInTransactionSessionTimeout:
		return true
	}
	return strings.HasPrefix(code, "08")
}
