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

// connectionError is a *pgconn.ConnectError with a short message. By default pgx tries
// each address with TLS and without, and its message lists the result of every attempt.
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

// reasons are the answers of the server if it has answered, otherwise the error of the
// last attempt. For several servers they are the errors of all.
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

// servers counts the different servers that were tried.
func (e *connectionError) servers() int {
	c := e.err.Config
	seen := map[string]bool{fmt.Sprint(c.Host, c.Port): true}
	for _, f := range c.Fallbacks {
		seen[fmt.Sprint(f.Host, f.Port)] = true
	}
	return len(seen)
}

// attempts are the errors that err joins. There is at least one.
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

// hint is a question that may help to find the cause, or empty.
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

// Failed wraps the error of a connection attempt, and reduces its message to the reason
// that matters. errors.As still finds the *pgconn.ConnectError.
func Failed(err error) error {
	var attempt *pgconn.ConnectError
	if errors.As(err, &attempt) {
		return fmt.Errorf("connect: %w", &connectionError{attempt})
	}
	return fmt.Errorf("connect: %w", err)
}
