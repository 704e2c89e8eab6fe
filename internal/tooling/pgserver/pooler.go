package pgserver

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// poolerPort only names the socket's file.
const poolerPort = "6432"

// poolerPath is where Debian keeps what only administrators run.
const poolerPath = "/usr/sbin/pgbouncer"

// Pooler is a PgBouncer in front of a Server.
type Pooler struct {
	dir  string
	proc *process
}

// StartPooler starts PgBouncer in front of the server and returns when it lets
// clients in. settings go into its configuration, such as pool_mode. Everybody is
// let in, as the superuser. The caller has to Close it before the server.
//
// https://www.pgbouncer.org/config.html
func (s *Server) StartPooler(ctx context.Context, settings map[string]string) (_ *Pooler, err error) {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = poolerPath
	}
	dir, err := os.MkdirTemp(s.opts.ParentDir, "repack-pb-")
	if err != nil {
		return nil, fmt.Errorf("start pgbouncer: %w", err)
	}
	p := &Pooler{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start pgbouncer: %w", err), p.Close())
		}
	}()
	if err := os.WriteFile(p.configFile(), []byte(s.poolerConfig(dir, settings)), 0o644); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(dir, "stderr.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := s.account.own(dir); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, p.configFile())
	cmd.Dir, cmd.Stderr, cmd.WaitDelay = dir, log, logDrain
	s.account.apply(cmd)
	if p.proc, err = startProcess(cmd, log); err != nil {
		return nil, fmt.Errorf("run pgbouncer as user %s: %w", s.account.name, err)
	}
	return p, p.awaitReady(ctx)
}

func (s *Server) poolerConfig(dir string, settings map[string]string) string {
	lines := []string{
		"[databases]", fmt.Sprintf("* = host=%s port=%s user=%s", s.dir, port, Superuser),
		"[pgbouncer]", "auth_type = any", "listen_addr =", "listen_port = " + poolerPort, "unix_socket_dir = " + dir,
	}
	for name, value := range settings {
		lines = append(lines, name+" = "+value)
	}
	return strings.Join(lines, "\n") + "\n"
}

func (p *Pooler) configFile() string { return filepath.Join(p.dir, "pgbouncer.ini") }

// ConnString returns a URL that connects to database through the pooler.
func (p *Pooler) ConnString(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User(Superuser), Path: "/" + database,
		RawQuery: url.Values{"host": {p.dir}, "port": {poolerPort}, "sslmode": {"disable"}}.Encode(),
	}
	return u.String()
}

func (p *Pooler) awaitReady(ctx context.Context) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		conn, last := pgx.Connect(ctx, p.ConnString(Superuser))
		if last == nil {
			return conn.Close(ctx)
		}
		select {
		case <-p.proc.exited:
			return fmt.Errorf("pgbouncer ended while starting: %w", p.proc.err)
		case <-ctx.Done():
			return fmt.Errorf("wait for pgbouncer: %w (last answer: %w)", ctx.Err(), last)
		case <-ticker.C:
		}
	}
}

// Close stops it at once, with the sessions it has, and removes its directory.
func (p *Pooler) Close() error {
	var err error
	if p.proc != nil {
		err = p.proc.stop(Immediate)
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}
