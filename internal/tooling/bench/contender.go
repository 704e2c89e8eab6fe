package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/jackc/pgx/v5"
)

// contender rewrites table t of the copied database.
type contender struct {
	name string
	// command is a program to run; or, where it is empty, sql.
	command []string
	sql     []string
}

func (b *bench) repack(name string, flags ...string) contender {
	return contender{name: name, command: append([]string{b.binary, "run", "--table", "t", "--quiet", "--dsn", b.server.ConnString(copied)}, flags...)}
}

var vacuumFull = contender{name: "VACUUM FULL", sql: []string{"VACUUM FULL t"}}

// contenders starts with the one that the others are compared with.
func (b *bench) contenders() []contender {
	list := []contender{
		vacuumFull,
		{name: "CLUSTER", sql: []string{"CLUSTER t USING t_pkey"}},
		b.repack("repack"),
		b.repack("repack --transfer client", "--transfer", "client"),
		b.repack("repack, direct-trigger", "--strategy", "direct-trigger"),
	}
	if b.hasPgRepack() {
		list = append(list, b.pgRepack())
	}
	return list
}

func (b *bench) pgRepack() contender {
	return contender{name: "pg_repack -n -j 2", command: []string{b.pgRepackPath(), "--no-order", "--jobs", "2", "--table", "t", "--dbname", copied}}
}

func (b *bench) pgRepackPath() string { return filepath.Join(b.server.BinDir(), "pg_repack") }

func (b *bench) hasPgRepack() bool {
	_, err := os.Stat(b.pgRepackPath())
	return err == nil
}

// start begins the contender's work; the function it returns waits for the end.
func (b *bench) start(ctx context.Context, c contender) (wait func() (*os.ProcessState, error), err error) {
	if len(c.command) == 0 {
		done := make(chan error, 1)
		go func() { done <- b.exec(ctx, copied, c.sql...) }()
		return func() (*os.ProcessState, error) { return nil, <-done }, nil
	}
	cmd := exec.CommandContext(ctx, c.command[0], c.command[1:]...)
	if cmd.Env, err = b.environment(); err != nil {
		return nil, err
	}
	output, err := os.CreateTemp("", "repack-bench-output-")
	if err != nil {
		return nil, fmt.Errorf("make a file for output: %w", err)
	}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	return func() (*os.ProcessState, error) {
		defer os.Remove(output.Name())
		if err := cmd.Wait(); err != nil {
			text, _ := os.ReadFile(output.Name())
			return nil, fmt.Errorf("%s: %w\n%s", c.name, err, text)
		}
		return cmd.ProcessState, nil
	}, nil
}

// environment tells libpq's programs where the server is.
func (b *bench) environment() ([]string, error) {
	config, err := pgx.ParseConfig(b.server.ConnString(copied))
	if err != nil {
		return nil, fmt.Errorf("connection string: %w", err)
	}
	return append(os.Environ(), "PGHOST="+config.Host, fmt.Sprintf("PGPORT=%d", config.Port), "PGUSER="+config.User), nil
}
