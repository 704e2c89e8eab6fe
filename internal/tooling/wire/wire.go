// Package wire stands between a client and a PostgreSQL server, passes on what
// they say after a latency, and counts it: connections, statements and round
// trips, as they are on the wire and not as a driver means them.
//
// https://www.postgresql.org/docs/current/protocol-message-formats.html
package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Proxy listens on a port of this host, for clients that use neither TLS nor GSS
// encryption.
type Proxy struct {
	listener         net.Listener
	network, address string
	latency          time.Duration // of each direction

	mu          sync.Mutex
	connections []*Connection
}

// Connection is what one client has said.
type Connection struct {
	mu         sync.Mutex
	statements []Statement
	trips      int
	asking     bool // something was said since the last answer
	names      map[string]string
	portal     string // the statement of the portal that was bound last
	begun      bool   // the start-up message has been read
	rest       []byte // of a message that has not come whole
}

// Statement is one simple query, which may consist of several SQL statements, or
// one execution of a prepared statement.
type Statement struct {
	SQL  string
	Trip int // the round trip, from one, of its connection
	At   time.Time
}

// Listen returns a Proxy to the server at network and address, as net.Dial takes
// them, until ctx ends. Each direction takes latency.
func Listen(ctx context.Context, network, address string, latency time.Duration) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for clients: %w", err)
	}
	p := &Proxy{listener: listener, network: network, address: address, latency: latency}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	go p.serve(ctx)
	return p, nil
}

// Port is where clients connect to, on 127.0.0.1.
func (p *Proxy) Port() uint16 { return uint16(p.listener.Addr().(*net.TCPAddr).Port) }

// Connections are all that clients have opened, in that order, except those that only
// cancel a statement.
func (p *Proxy) Connections() []*Connection {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*Connection
	for _, c := range p.connections {
		if c.Trips() > 0 {
			list = append(list, c)
		}
	}
	return list
}

// Trips is how many round trips there have been, the start of the session among
// them.
func (c *Connection) Trips() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trips
}

// Statements are those that were executed, in their order.
func (c *Connection) Statements() []Statement {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Statement(nil), c.statements...)
}

func (p *Proxy) serve(ctx context.Context) {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := (&net.Dialer{}).DialContext(ctx, p.network, p.address)
		if err != nil {
			_ = client.Close()
			continue
		}
		c := &Connection{names: map[string]string{}}
		p.mu.Lock()
		p.connections = append(p.connections, c)
		p.mu.Unlock()
		stop := context.AfterFunc(ctx, func() { _, _ = client.Close(), server.Close() })
		go func() {
			defer stop()
			var both sync.WaitGroup
			both.Go(func() { pass(client, server, p.latency, c.said) })
			both.Go(func() { pass(server, client, p.latency, c.answered) })
			both.Wait()
		}()
	}
}

// pass hands on what comes from one side, each piece after a latency of its own:
// the pieces are not delayed by one another.
func pass(from, to net.Conn, latency time.Duration, note func([]byte)) {
	type piece struct {
		bytes []byte
		due   time.Time
	}
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		buffer := make([]byte, 64<<10)
		for {
			n, err := from.Read(buffer)
			if n > 0 {
				pieces <- piece{bytes.Clone(buffer[:n]), time.Now().Add(latency)}
			}
			if err != nil {
				return
			}
		}
	}()
	defer to.Close()
	var failed error
	for p := range pieces {
		note(p.bytes)
		if failed == nil {
			time.Sleep(time.Until(p.due))
			_, failed = to.Write(p.bytes)
		}
		if failed != nil && !errors.Is(failed, io.EOF) {
			_ = from.Close() // which ends its reader
		}
	}
}

func (c *Connection) answered([]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asking {
		c.trips++
		c.asking = false
	}
}

// said takes the messages of a client apart.
func (c *Connection) said(piece []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asking = true
	c.rest = append(c.rest, piece...)
	for {
		head := 1 // the type of a message, which one before the session begins has not
		if !c.begun {
			head = 0
		}
		if len(c.rest) < head+4 {
			return
		}
		end := head + int(binary.BigEndian.Uint32(c.rest[head:]))
		if len(c.rest) < end {
			return
		}
		if c.begun {
			c.message(c.rest[0], c.rest[5:end])
		} else {
			const version3 = 3
			c.begun = end >= 8 && binary.BigEndian.Uint16(c.rest[4:]) == version3
		}
		c.rest = c.rest[end:]
	}
}

func (c *Connection) message(kind byte, body []byte) {
	texts := strings.SplitN(string(body), "\x00", 3)
	switch kind {
	case 'Q':
		c.note(texts[0])
	case 'P':
		c.names[texts[0]] = texts[1]
	case 'B':
		c.portal = c.names[texts[1]]
	case 'E':
		c.note(c.portal)
	}
}

func (c *Connection) note(sql string) {
	c.statements = append(c.statements, Statement{SQL: sql, Trip: c.trips + 1, At: time.Now()})
}

// UnderLock is how many round trips the exchange of a table, written as SQL writes it,
// took on this connection: from the one that asked for ACCESS EXCLUSIVE on it to the
// one that committed, both among them. Attempts that were rolled back are counted
// apart: trips are those of the last. Both are zero where there was no exchange.
func (c *Connection) UnderLock(table string) (trips, attempts int) {
	first := 0
	for _, s := range c.Statements() {
		switch {
		case strings.Contains(s.SQL, "LOCK TABLE ONLY "+table+" IN ACCESS EXCLUSIVE MODE"):
			first, attempts = s.Trip, attempts+1
		case first > 0 && s.SQL == "commit":
			return s.Trip - first + 1, attempts
		}
	}
	return 0, attempts
}
