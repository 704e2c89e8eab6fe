package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/repack-go/repack/repack"
)

func TestExitCodeOfErrors(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("anything"), 1},
		{&repack.DriftError{}, 1},
		{&repack.ParityError{}, 1},
		{&repack.NotConvergingError{}, 4},
		{repack.ErrPutOff, 4},
		{repack.ErrNewerRegistry, 3},
		{&repack.UsageError{Err: errors.New("x")}, 2},
		{&repack.RefusedError{}, 3},
		{&repack.PoolerError{}, 3},
		{&repack.RevertDriftError{}, 3},
		{&repack.RestoredError{}, 3},
		{&repack.NewerJobError{}, 3},
		{repack.ErrSwapped, 3},
		{repack.ErrNotSwapped, 3},
		{repack.ErrNoJob, 3},
		{&repack.BusyError{}, 4},
		{&repack.LockTimeoutError{}, 4},
		{&repack.SnapshotError{}, 4},
		{&repack.StoppedError{}, 5},
	} {
		if got := exitCode(t.Context(), c.err); got != c.want {
			t.Errorf("exit code of %T is %d, want %d", c.err, got, c.want)
		}
		if c.err == nil {
			continue
		}
		if got := exitCode(t.Context(), fmt.Errorf("stage: %w", c.err)); got != c.want {
			t.Errorf("exit code of a wrapped %T is %d, want %d", c.err, got, c.want)
		}
		if got := exitCode(ended, c.err); got != 130 {
			t.Errorf("exit code of %T after an interruption is %d, want 130", c.err, got)
		}
	}
	if got := exitCode(ended, nil); got != 0 {
		t.Errorf("done just before an interruption: %d, want 0", got)
	}
}

func TestHelpIsNoError(t *testing.T) {
	t.Setenv("REPACK_DSN", "postgres://u:hunter2@h/x")
	for _, args := range [][]string{{"help"}, {"help", "run"}, {"--help"}, {"run", "--help"}, {"status", "-h"}, {"reset", "--help"}, {"revert", "--help"}} {
		var stdout, stderr strings.Builder
		if code := run(t.Context(), append([]string{"repack"}, args...), &stdout, &stderr); code != 0 || stderr.Len() > 0 {
			t.Errorf("repack %q: exit code %d, standard error %q", args, code, stderr.String())
		}
		if !strings.Contains(stdout.String(), "USAGE") || strings.Contains(stdout.String(), "hunter2") {
			t.Errorf("repack %q writes %s", args, stdout.String())
		}
	}
	for _, args := range [][]string{{}, {"help", "frobnicate"}, {"help", "run", "too"}} {
		var stdout, stderr strings.Builder
		if code := run(t.Context(), append([]string{"repack"}, args...), &stdout, &stderr); code != 2 || stdout.Len() > 0 {
			t.Errorf("repack %q: exit code %d, standard output %q", args, code, stdout.String())
		}
		if len(args) == 0 && !strings.Contains(stderr.String(), "COMMANDS") || strings.Contains(stderr.String(), "hunter2") {
			t.Errorf("repack %q writes %s", args, stderr.String())
		}
	}
	var stdout, stderr strings.Builder
	run(t.Context(), []string{"repack", "--help"}, &stdout, &stderr)
	for _, code := range []string{"0 ", "1 ", "2 ", "3 ", "4 ", "130"} {
		if !strings.Contains(stdout.String(), "\n     "+code) {
			t.Errorf("help does not explain exit code %q", code)
		}
	}
}

func TestVersion(t *testing.T) {
	var stdout, stderr strings.Builder
	if code := run(t.Context(), []string{"repack", "version"}, &stdout, &stderr); code != 0 || stdout.String() != "repack "+version+"\n" {
		t.Errorf("exit code %d, %q, %q", code, stdout.String(), stderr.String())
	}
}
