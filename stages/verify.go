package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/compare"
)

// ErrNothingToVerify reports that the job has no two tables that are equal except for
// pending changes. The job has not reached post_sync_update, or is being reverted, or
// clean_up has begun.
var ErrNothingToVerify = errors.New("there is nothing to verify: only from post_sync_update to clean_up does a copy follow the table")

// Verify compares the table in use with its copy. Before the swap, these are source and
// shadow; after it, the new table and the old one. It replays nothing, and leaves out rows
// with a pending change. It returns ErrNothingToVerify, or *compare.Error, whose mismatches
// are in the result too. Before the swap, it records a mismatch, and then the swap requires
// a full comparison.
//
// It takes ACCESS SHARE on both tables and the change log, chunk by chunk.
func Verify(ctx context.Context, e *Env, mode registry.VerifyMode) (*compare.Result, error) {
	stage := e.Job.Stage
	if e.Job.Swapped() && !e.Alteration.Reversible() {
		return nil, ErrNothingToVerify
	}
	if e.Job.State != registry.Active || stage != registry.PostSyncUpdate && stage != registry.Swap {
		return nil, ErrNothingToVerify
	}
	if err := e.checkNames(ctx); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	result, err := e.comparer(nil).Compare(ctx, mode)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	found := result.Err(e.Job.Swapped())
	if found != nil && !e.Job.Swapped() {
		if err := e.recordVerification(ctx, result, nil); err != nil {
			e.Log.Warn("mismatch not recorded", "job", e.Job.ID, "error", err)
		}
	}
	return result, found
}

// comparer returns how this run compares. replay replays the change log; or nil.
func (e *Env) comparer(replay func(context.Context) error) compare.Comparer {
	return compare.Comparer{
		Pool: e.Pool, Locks: e.OfRows(), Log: e.Log, Job: e.Job, Source: e.Alteration.Comparable(e.Source), Link: e.Link,
		Jobs: e.Jobs, Throttle: e.Throttle, BatchSize: e.BatchSize, Replay: replay,
	}
}

// checkNames makes sure that the names in the comparison are those of the job's tables.
func (e *Env) checkNames(ctx context.Context) error {
	for oid, want := range map[uint32]catalog.Name{e.InUse(): e.Link.From, e.Copied(): e.Link.To} {
		have, ok, err := nameOf(ctx, e.Pool, oid)
		if err != nil {
			return err
		}
		if !ok || have != want {
			return fmt.Errorf("%s has been dropped or renamed since the job began", want)
		}
	}
	return nil
}

// compareBeforeSwap compares source and shadow as far as the options, and what was compared
// before, require it. The result is nil if nothing is required.
func (e *Env) compareBeforeSwap(ctx context.Context) (*compare.Result, error) {
	mode, err := e.verifyMode(ctx)
	if err != nil || mode == registry.VerifyOff {
		return nil, err
	}
	result, err := e.comparer(e.replayer().CatchUp).Compare(ctx, mode)
	if err != nil {
		return nil, fmt.Errorf("compare shadow and source: %w", err)
	}
	return result, nil
}

// concludeComparison records what compareBeforeSwap has found. It returns a mismatch as
// *compare.Error. A comparison that passes is recorded together with what complete does,
// which may be nil.
func (e *Env) concludeComparison(ctx context.Context, result *compare.Result, complete func(tx pgx.Tx) error) error {
	if result == nil && complete == nil {
		return nil
	}
	if result == nil {
		return e.Write(ctx, complete)
	}
	if found := result.Err(false); found != nil {
		return errors.Join(found, e.recordVerification(ctx, result, nil))
	}
	return e.recordVerification(ctx, result, complete)
}

func (e *Env) recordVerification(ctx context.Context, r *compare.Result, complete func(tx pgx.Tx) error) error {
	verified := registry.Verification{Mode: r.Mode, Rows: r.CopyRows, Mismatches: int64(len(r.Mismatches))}
	err := e.Write(ctx, func(tx pgx.Tx) error {
		err := e.Registry.AddVerification(ctx, tx, e.Job.ID, verified)
		if err != nil || complete == nil {
			return err
		}
		return complete(tx)
	})
	if err == nil {
		e.verified = &verified
	}
	return err
}

// verifyMode returns what must still be compared before the swap. After a mismatch, a full
// comparison must pass, whatever the options say. So running the job again cannot make it
// swap.
func (e *Env) verifyMode(ctx context.Context) (registry.VerifyMode, error) {
	last := e.verified
	if last == nil {
		var err error
		if last, err = e.Registry.LastVerification(ctx, e.Pool, e.Job.ID); err != nil {
			return "", err
		}
	}
	switch {
	case last != nil && last.Mismatches > 0:
		return registry.VerifyFull, nil
	case last != nil && (last.Mode == registry.VerifyFull || e.Verify == registry.VerifySample):
		return registry.VerifyOff, nil
	default:
		return e.Verify, nil
	}
}
