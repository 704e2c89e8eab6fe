package session_test

import (
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// TestFailedSaysTheReason connects to a port on which no server listens, to a database
// that does not exist, and to both.
func TestFailedSaysTheReason(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	host := db.Config(t).Host
	for _, c := range []struct {
		dsn  string
		says []string
		once string
	}{
		{"postgres://u@127.0.0.1:1/x", []string{"user u", "database x", "connection refused", "is the server running"}, "refused"},
		{"postgres://u@127.0.0.1:1/x?sslmode=prefer", []string{"connection refused"}, "refused"},
		{"host=" + host + " user=postgres dbname=absent", []string{`"absent" does not exist`}, "3D000"},
		{"host=127.0.0.1," + host + " port=1,5432 user=postgres dbname=absent", []string{`"absent" does not exist`}, "3D000"},
	} {
		config, err := pgx.ParseConfig(c.dsn)
		if err != nil {
			t.Fatal(err)
		}
		_, err = pgx.ConnectConfig(t.Context(), config)
		text := session.Failed(err).Error()
		for _, want := range c.says {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in %q", c.dsn, want, text)
			}
		}
		if strings.Count(text, c.once) != 1 || strings.Contains(text, "tls error") || strings.Contains(text, "\n") {
			t.Errorf("%s: %q", c.dsn, text)
		}
	}
}

// TestFailedWithoutTLS refuses TLS, as many servers on a private network do, and then
// refuses the user. The message must give the second reason.
func TestFailedWithoutTLS(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			request := make([]byte, 8)
			if _, err := conn.Read(request); err == nil && request[4] == 4 { // SSLRequest: 80877103
				_, _ = conn.Write([]byte("N"))
			} else {
				const answer = "SFATAL\x00C28000\x00Mno entry for this user\x00\x00"
				_, _ = conn.Write(append([]byte{'E', 0, 0, 0, byte(len(answer) + 4)}, answer...))
			}
			_ = conn.Close()
		}
	}()
	config, err := pgx.ParseConfig("postgres://u@" + listener.Addr().String() + "/x")
	if err != nil {
		t.Fatal(err)
	}
	_, err = pgx.ConnectConfig(t.Context(), config)
	if text := session.Failed(err).Error(); !strings.Contains(text, "no entry for this user") || strings.Contains(strings.ToLower(text), "tls") {
		t.Errorf("the reason is %q (of %v)", text, err)
	}
}

func TestMain(m *testing.M) { pgtest.Main(m) }
