package main

import (
	"context"
	"errors"

	"github.com/repack-go/repack/repack"
)

const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitBusy        = 4
	exitStopped     = 5
	exitInterrupted = 130
)

const exitCodes = `Exit codes:
  0    done
  1    failed, safe to run again
  2    usage
  3    refused, nothing changed
  4    busy or lock not obtained, safe to run again
  5    stopped as told, run again later
  130  interrupted, safe to run again`

// exitCode is the only place that turns errors into exit codes. README.md has the same
// table.
func exitCode(ctx context.Context, err error) int {
	var (
		usage    *repack.UsageError
		refused  *repack.RefusedError
		rights   *repack.PrivilegesError
		drift    *repack.RevertDriftError
		pooler   *repack.PoolerError
		held     *repack.OIDsHeldError
		busy     *repack.BusyError
		locked   *repack.LockTimeoutError
		snapshot *repack.SnapshotError
		behind   *repack.NotConvergingError
		restored *repack.RestoredError
		newer    *repack.NewerJobError
		unfit    *repack.UnfitError
		stopped  *repack.StoppedError
		several  *repack.BatchError
		nothing  *repack.NoMatchError
		measure  *repack.MeasureError
	)
	switch {
	case err == nil:
		return exitDone
	case ctx.Err() != nil:
		return exitInterrupted
	case errors.As(err, &several):
		return gravest(ctx, several.Errs)
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &refused), errors.As(err, &rights), errors.As(err, &pooler), errors.As(err, &drift), errors.As(err, &held),
		errors.As(err, &restored), errors.As(err, &newer),
		errors.As(err, &nothing), errors.As(err, &measure), errors.Is(err, repack.ErrNothingChosen), errors.Is(err, repack.ErrSwapped), errors.Is(err, repack.ErrNotSwapped), errors.Is(err, repack.ErrFinishing), errors.Is(err, repack.ErrIrreversible), errors.Is(err, repack.ErrNoJob),
		errors.As(err, &unfit) && unfit.Refused, errors.Is(err, repack.ErrNothingToVerify), errors.Is(err, repack.ErrNewerRegistry):
		return exitRefused
	case errors.As(err, &busy), errors.As(err, &locked), errors.As(err, &snapshot), errors.As(err, &behind), errors.Is(err, repack.ErrPutOff):
		return exitBusy
	case errors.As(err, &stopped):
		return exitStopped
	default:
		return exitFailed
	}
}

// gravity orders the exit codes of the tables of a batch, the gravest first.
var gravity = []int{exitInterrupted, exitUsage, exitFailed, exitBusy, exitStopped, exitRefused}

// gravest returns the gravest exit code of errors.
func gravest(ctx context.Context, errs []error) int {
	codes := map[int]bool{}
	for _, err := range errs {
		codes[exitCode(ctx, err)] = true
	}
	for _, code := range gravity {
		if codes[code] {
			return code
		}
	}
	return exitFailed
}
