package pgserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
)

// StartStandby makes a standby of the server, which keeps WAL for it by a slot of
// that name, and returns when it lets readers in. settings go into its
// postgresql.conf, over the server's. The caller has to Close it, before the server.
//
// https://www.postgresql.org/docs/current/app-pgbasebackup.html
func (s *Server) StartStandby(ctx context.Context, slot string, settings map[string]string) (_ *Server, err error) {
	dir, err := os.MkdirTemp(s.opts.ParentDir, "repack-pg-")
	if err != nil {
		return nil, fmt.Errorf("start standby: %w", err)
	}
	standby := &Server{opts: s.opts, account: s.account, dir: dir, version: s.version}
	standby.opts.Settings = maps.Clone(s.opts.Settings)
	if standby.opts.Settings == nil {
		standby.opts.Settings = map[string]string{}
	}
	maps.Copy(standby.opts.Settings, settings)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start standby: %w", err), standby.Close())
		}
	}()
	if err := s.account.own(dir); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(s.opts.BinDir, "pg_basebackup"), "--pgdata="+standby.dataDir(),
		"--dbname="+s.ConnString(Superuser), "--create-slot", "--slot="+slot, "--write-recovery-conf",
		"--wal-method=stream", "--checkpoint=fast", "--no-sync", "--no-password")
	cmd.Dir = dir
	s.account.apply(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("pg_basebackup as user %s: %w\n%s", s.account.name, err, out)
	}
	if err := standby.writeSettings(); err != nil { // what is said last holds
		return nil, err
	}
	return standby, standby.start(ctx)
}

// HasBackup reports whether StartStandby finds what it needs next to the server.
func (s *Server) HasBackup() bool {
	_, err := exec.LookPath(filepath.Join(s.opts.BinDir, "pg_basebackup"))
	return err == nil
}
