package tests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// cutter drops every connection of a run at the nth message sent to the server:
// before it is sent, or after the server has answered it, so that the outcome
// is unknown on our side. Messages are counted over all connections. Where there
// is a strike, it comes before the message and nothing else is done: the run
// finds out by itself what has become of the server.
type cutter struct {
	at       int64 // 0: never
	after    bool
	commits  bool // at counts COMMITs only
	strike   func()
	messages atomic.Int64
	done     atomic.Bool // the cut
}

// copyData is how a message with rows of COPY begins.
const copyData = 'd'

var errCut = errors.New("connection cut by the test")

// cut reports whether the message that is about to be sent is the one, or
// comes after it: a run that has been cut stays cut.
func (c *cutter) cut(message []byte) (now, gone bool) {
	if c.done.Load() {
		return false, true
	}
	if c.commits && !bytes.Contains(message, []byte("commit\x00")) {
		return false, false
	}
	now = c.messages.Add(1) == c.at
	if now && c.strike != nil {
		c.strike()
		return false, false
	}
	if now {
		c.done.Store(true)
	}
	return now, false
}

func (c *cutter) config(config *pgx.ConnConfig) *pgx.ConnConfig {
	config = config.Copy()
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &cutConn{Conn: conn, cutter: c}, nil
	}
	return config
}

type cutConn struct {
	net.Conn
	cutter *cutter
}

func (c *cutConn) Write(message []byte) (int, error) {
	now, gone := c.cutter.cut(message)
	if gone || now && !c.cutter.after {
		return 0, errors.Join(errCut, c.Conn.Close())
	}
	n, err := c.Conn.Write(message)
	if err != nil || !now {
		return n, err
	}
	// The server has carried the message out when it answers. Rows that COPY
	// sends it does not answer: it would wait for more of them, and we for it.
	if message[0] != copyData {
		_, err = c.Conn.Read(make([]byte, 1<<16))
	}
	return 0, errors.Join(errCut, err, c.Conn.Close())
}

const cutSchemaSQL = `
CREATE TABLE parent (id int PRIMARY KEY);
INSERT INTO parent SELECT generate_series(1, 10);
CREATE TABLE t (
    id     int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    n      serial,
    email  text UNIQUE,
    parent int REFERENCES parent ON DELETE CASCADE
);
INSERT INTO t (email, parent) SELECT 'e' || g, 1 + g % 10 FROM generate_series(1, 500) g;
CREATE TABLE child (t int REFERENCES t ON DELETE CASCADE);
INSERT INTO child SELECT g FROM generate_series(1, 50) g;
CREATE FUNCTION label(t) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1.email';
CREATE FUNCTION next_t(int) RETURNS SETOF t LANGUAGE sql AS 'SELECT * FROM t LIMIT $1';
CREATE POLICY p ON t USING (label(t) <> '');
CREATE VIEW v AS SELECT id, email, label(t) FROM t;
CREATE TABLE model AS SELECT * FROM t`

// cutWrites are done between the cut and the next run, to table and model.
const cutWrites = `
UPDATE %[1]s SET email = email || '!' WHERE id %% 7 = 0;
DELETE FROM %[1]s WHERE id %% 31 = 0`

// countMessages is how many messages a run that is not cut sends, or how many of
// them are COMMITs.
func countMessages(t *testing.T, strategy string, commits bool) int64 {
	t.Helper()
	db := pgtest.New(t)
	db.Exec(t, cutSchemaSQL)
	c := &cutter{commits: commits}
	if err := runCut(t, db, strategy, c); err != nil {
		t.Fatalf("uncut run: %v", err)
	}
	return c.messages.Load()
}

func runCut(t *testing.T, db *pgtest.Database, strategy string, c *cutter) error {
	o := options(t, "t", strategy)
	o.Jobs, o.Logger, o.RetryFor = 1, nil, -1 // the run ends where it is cut
	o.LockTimeout = queuing                   // nobody is in the way
	r, err := repack.New(c.config(db.Config(t)), o)
	if err != nil {
		t.Fatalf("new repack: %v", err)
	}
	return r.Run(testContext(t))
}

// cutAt cuts one run, writes, and runs to the end.
func cutAt(t *testing.T, strategy string, c *cutter) {
	t.Helper()
	db := pgtest.New(t)
	db.Exec(t, cutSchemaSQL)
	dump := db.Dump(t)
	err := runCut(t, db, strategy, c)
	db.Exec(t, fmt.Sprintf(cutWrites, "t")+";"+fmt.Sprintf(cutWrites, "model"))
	if err != nil {
		run(t, db, options(t, "t", strategy))
	}
	db.EqualTables(t, "t", "model")
	if now := db.Dump(t); now != dump {
		t.Errorf("cut at message %d (COMMITs: %v, after: %v, %v): schema changed:\n%s", c.at, c.commits, c.after, err, now)
	}
}

// TestCutAnywhere drops the tool's connections at each COMMIT, with one strategy and
// the other in turn, before it or after its answer, and at a sample of its other
// messages, and runs again. `make torture`
// drops them at every message, before and after.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	for _, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(randomSeed(t), 0))
			commits := countMessages(t, strategy, true)
			for at := int64(1); at <= commits; at++ {
				if !slices.Contains(turn(int(at)), strategy) {
					continue
				}
				cutAt(t, strategy, &cutter{at: at, after: random.IntN(2) == 0, commits: true})
			}
			messages := countMessages(t, strategy, false)
			sample := 3
			if thorough() {
				sample = 30
			}
			for n := range sample {
				cutAt(t, strategy, &cutter{at: 1 + random.Int64N(messages), after: n%2 == 0})
			}
			t.Logf("%s: cut at some of %d COMMITs and %d of %d messages", strategy, commits, sample, messages)
		})
	}
}
