package repack

import (
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestOptionsRefused: each is a usage error that names what is wrong, before anything
// is connected to.
func TestOptionsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		o    Options
		says string
	}{
		{Options{Strategy: "copy"}, `"copy"`},
		{Options{Strategy: "Change-Log"}, `"Change-Log"`},
		{Options{Strategy: DirectTrigger, OrderBy: "a"}, "use change-log"},
		{Options{Pooler: "transaction"}, `"transaction"`},
		{Options{Until: "swapped"}, `"swapped"`},
		{Options{Until: "Swap"}, `"Swap"`},
		{Options{Verify: "most"}, `"most"`},
		{Options{Transfer: "network"}, `"network"`},
		{Options{ForeignKeys: "never"}, `"never"`},
		{Options{Jobs: -1}, "jobs cannot be negative"},
		{Options{BatchSize: -1}, "batch size cannot be negative"},
		{Options{LockTimeout: -1}, "lock timeout cannot be negative"},
		{Options{MaxSnapshotWait: -time.Second}, "snapshot wait cannot be negative"},
		{Options{KillBlockers: -time.Second}, "kill blockers cannot be negative"},
	} {
		_, err := c.o.withDefaults()
		var usage *UsageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v, want a *UsageError with %s", c.o, err, c.says)
		}
		if _, err := New(nil, c.o); !errors.As(err, &usage) {
			t.Errorf("New with %+v: %v", c.o, err)
		}
	}
}

// TestOptionsByDefault: the zero value stands for what is documented.
func TestOptionsByDefault(t *testing.T) {
	t.Parallel()
	o, err := Options{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if o.Logger == nil {
		t.Error("there is no logger")
	}
	o.Logger, o.Hooks = nil, Hooks{}
	jobs := o.Jobs
	if jobs < 1 || jobs > 4 || jobs > runtime.NumCPU() || !o.yield {
		t.Errorf("%d jobs of %d processors, yield %t", jobs, runtime.NumCPU(), o.yield)
	}
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"strategy", o.Strategy, "change-log"},
		{"until", o.Until, CleanUp},
		{"lock timeout", o.LockTimeout, 500 * time.Millisecond},
		{"lock retries", o.LockRetries, 20},
		{"snapshot wait", o.MaxSnapshotWait, time.Minute},
		{"retry for", o.RetryFor, 5 * time.Minute},
		{"verify", o.Verify, VerifySample},
		{"transfer", o.Transfer, TransferAuto},
		{"foreign keys", o.ForeignKeys, ForeignKeysAuto},
		{"registry schema", o.RegistrySchema, "repack_registry"},
		{"kill blockers", o.KillBlockers, time.Duration(0)},
		{"pooler", o.Pooler, ""},
	} {
		if c.got != c.want {
			t.Errorf("%s is %v, want %v", c.name, c.got, c.want)
		}
	}
}

// TestOptionsKept: what is given stays, and a negative number of retries is none.
func TestOptionsKept(t *testing.T) {
	t.Parallel()
	logger := slog.New(slog.DiscardHandler)
	given := Options{
		Strategy: DirectTrigger, Until: Setup, BatchSize: 1, Jobs: 9, LockTimeout: 1, LockRetries: 1, KillBlockers: 1, MaxSnapshotWait: 1, RetryFor: -1,
		Verify: VerifyOff, Transfer: TransferServer, ForeignKeys: ForeignKeysOneByOne, RegistrySchema: "r", Pooler: PoolerSession, Logger: logger,
	}
	o, err := given.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if o.Strategy != DirectTrigger || o.Until != Setup || o.BatchSize != 1 || o.Jobs != 9 || o.yield || o.LockTimeout != 1 || o.LockRetries != 1 ||
		o.KillBlockers != 1 || o.MaxSnapshotWait != 1 || o.RetryFor != -1 || o.Verify != VerifyOff || o.Transfer != TransferServer ||
		o.ForeignKeys != ForeignKeysOneByOne || o.RegistrySchema != "r" || o.Pooler != PoolerSession || o.Logger != logger {
		t.Errorf("%+v has become %+v", given, o)
	}
	for retries, want := range map[int]int{-1: 0, -20: 0, 0: 20, 3: 3} {
		if o, err := (Options{LockRetries: retries}).withDefaults(); err != nil || o.LockRetries != want {
			t.Errorf("%d retries are %d, %v; want %d", retries, o.LockRetries, err, want)
		}
	}
	if _, err := (Options{OrderBy: "a"}).withDefaults(); err != nil {
		t.Errorf("an order with the strategy by default: %v", err)
	}
}
