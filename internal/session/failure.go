package session

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// connectionError is a *pgconn.ConnectError that says why, and no more. By
// default each address is tried with TLS and without, and the driver tells all
// that has come of that.
type connectionError struct{ err *pgconn.ConnectError }

func (e *connectionError) Unwrap() error { return e.err }

func (e *connectionError) Error() string {
	reasons := e.reasons()
	var texts []string
	for _, reason := range reasons {
		if text := reason.Error(); !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	c := e.err.Config
	return fmt.Sprintf("as user %s to database %s: %s%s", c.User, c.Database, strings.Join(texts, "; "), hint(reasons[len(reasons)-1]))
}

// reasons are what the server has answered, where it has, or else what the last
// attempt came to; of several servers all.
func (e *connectionError) reasons() []error {
	all := attempts(e.err)
	var answered []error
	for _, err := range all {
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) {
			answered = append(answered, err)
		}
	}
	if len(answered) > 0 {
		all = answered
	}
	if e.servers() == 1 {
		return all[len(all)-1:]
	}
	return all
}

func (e *connectionError) servers() int {
	c := e.err.Config
	seen := map[string]bool{fmt.Sprint(c.Host, c.Port): true}
	for _, f := range c.Fallbacks {
		seen[fmt.Sprint(f.Host, f.Port)] = true
	}
	return len(seen)
}

// attempts are the errors that err joins; at least err itself.
func attempts(err error) []error {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		if joined, ok := inner.(interface{ Unwrap() []error }); ok {
			if list := joined.Unwrap(); len(list) > 0 {
				return list
			}
		}
	}
	if cause := errors.Unwrap(err); cause != nil {
		return []error{cause}
	}
	return []error{err}
}

func hint(err error) string {
	var unknown *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return " (is the server running, and listening there?)"
	case errors.As(err, &unknown):
		return " (is the name of the host right?)"
	default:
		return ""
	}
}

// Failed is the error of a connection attempt, with the reason that counts.
func Failed(err error) error {
	var attempt *pgconn.ConnectError
	if errors.As(err, &attempt) {
		return fmt.Errorf("connect: %w", &connectionError{attempt})
	}
	return fmt.Errorf("connect: %w", err)
}
