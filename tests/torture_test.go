package tests

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// tortureEnv is how long TestTorture goes on, such as 10m or 8h.
const tortureEnv = "REPACK_TORTURE"

// trial is one thing to try. It fails its test if anything is lost.
type trial struct {
	kind, name string
	run        func(t *testing.T, seed uint64)
}

// tried counts what the tests of this process have done.
var tried counts

type counts struct {
	writes  atomic.Int64 // of writers that compare the table with its twin, committed
	longest atomic.Int64 // wait for the tool, in nanoseconds
}

func (c *counts) waited(d time.Duration) {
	for old := c.longest.Load(); old < int64(d) && !c.longest.CompareAndSwap(old, int64(d)); old = c.longest.Load() {
	}
}

// tortureWorkers are the trials that go on at a time.
const tortureWorkers = 2

// trialLimit is when a trial has failed whatever it waits for: the torture ends
// not much later than it was told to. On a quiet machine trials take seconds.
const trialLimit = 2 * time.Minute

// trialEnds are when the trials under way reach their limits, by test name.
var trialEnds sync.Map

// limited runs a trial whose contexts end with its limit.
func limited(t *testing.T, trial func()) {
	t.Helper()
	began := time.Now()
	trialEnds.Store(t.Name(), began.Add(trialLimit))
	defer func() {
		trialEnds.Delete(t.Name())
		if took := time.Since(began); took >= trialLimit {
			t.Errorf("the trial has taken %s; whatever hangs is the last that is logged", took.Round(time.Second))
		}
	}()
	trial()
}

// TestTorture tries everything of which the other tests try a sample, in an order
// that the seed decides, and over again until its time is over:
//
//	make torture DURATION=1h SEED=42
func TestTorture(t *testing.T) {
	text := os.Getenv(tortureEnv)
	if text == "" {
		t.Skipf("%s is not set: see make torture", tortureEnv)
	}
	duration, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s: %v", tortureEnv, err)
	}
	seed := randomSeed(t)
	fmt.Printf("torture: SEED=%d DURATION=%s\n", seed, duration)
	deck := tortureDeck(t)
	began := time.Now()
	s := &score{tried: map[string]int{}, distinct: map[string]map[string]bool{}}
	deal := dealer(deck, seed)
	var group sync.WaitGroup
	for range tortureWorkers {
		group.Go(func() {
			for time.Since(began) < duration {
				next, seed := deal()
				ran, start := false, time.Now() // not where -run asks for others only
				ok := t.Run(next.kind+"/"+next.name, func(t *testing.T) {
					ran = true
					limited(t, func() { next.run(t, seed) })
				})
				if ran {
					s.add(next, ok, time.Since(start))
				}
			}
		})
	}
	group.Wait()
	fmt.Print(s.report(deck, time.Since(began), seed))
}

// rotation is the order in which kinds take turns, so that little time is enough
// for some of each: those that take a second come more often than those that
// have writers go on for longer.
func rotation() []string {
	var kinds []string
	for _, slow := range []string{"terminations", "random runs", "kills", "crashes"} {
		for range 4 {
			kinds = append(kinds, "cuts", "interleavings")
		}
		kinds = append(kinds, slow)
	}
	return kinds
}

// dealer hands out trials of all kinds in turn, those of a kind shuffled, again
// and again. Each has a seed of its own, which follows from seed and how many
// were dealt before.
func dealer(deck []trial, seed uint64) func() (trial, uint64) {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0))
	rest := map[string][]trial{}
	kinds, turn := rotation(), 0
	return func() (trial, uint64) {
		mu.Lock()
		defer mu.Unlock()
		kind := kinds[turn%len(kinds)]
		turn++
		if len(rest[kind]) == 0 {
			all := slices.DeleteFunc(slices.Clone(deck), func(d trial) bool { return d.kind != kind })
			random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			rest[kind] = all
		}
		next := rest[kind][0]
		rest[kind] = rest[kind][1:]
		return next, random.Uint64()
	}
}

// score is what has been tried and what came of it.
type score struct {
	mu       sync.Mutex
	tried    map[string]int
	distinct map[string]map[string]bool // names by kind
	failed   []string
	slowest  string
	longest  time.Duration // that the slowest took
}

func (s *score) add(next trial, ok bool, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tried[next.kind]++
	if s.distinct[next.kind] == nil {
		s.distinct[next.kind] = map[string]bool{}
	}
	s.distinct[next.kind][next.name] = true
	if took > s.longest {
		s.slowest, s.longest = next.kind+"/"+next.name, took
	}
	if !ok {
		s.failed = append(s.failed, next.kind+"/"+next.name)
	}
}

func (s *score) report(deck []trial, took time.Duration, seed uint64) string {
	there := map[string]int{}
	var kinds []string
	for _, d := range deck {
		if there[d.kind]++; there[d.kind] == 1 {
			kinds = append(kinds, d.kind)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "torture: %s, seed %d\n", took.Round(time.Second), seed)
	for _, kind := range kinds {
		fmt.Fprintf(&b, "  %6d %-14s %d different ones of %d\n", s.tried[kind], kind, len(s.distinct[kind]), there[kind])
	}
	fmt.Fprintf(&b, "  %6d writes committed while it went on; the longest wait of one for the tool: %s\n",
		tried.writes.Load(), time.Duration(tried.longest.Load()).Round(time.Millisecond))
	fmt.Fprintf(&b, "  the slowest trial took %s: %s\n", s.longest.Round(time.Second), s.slowest)
	if len(s.failed) == 0 {
		fmt.Fprintln(&b, "lost: nothing")
		return b.String()
	}
	fmt.Fprintf(&b, "LOST OR NOTICED in %d trials; all again: make torture SEED=%d; or one by one:\n", len(s.failed), seed)
	for _, name := range s.failed {
		fmt.Fprintf(&b, "  %s=10s %s=%d go test ./tests -run '^TestTorture$/%s'\n", tortureEnv, seedEnv, seed,
			strings.ReplaceAll(regexp.QuoteMeta(name), " ", "_"))
	}
	return b.String()
}

// tortureDeck is everything there is to try.
func tortureDeck(t *testing.T) []trial {
	t.Helper()
	crashing := &crashServer{server: pgtest.NewServer(t, nil)}
	var deck []trial
	for _, strategy := range strategies {
		total := countMessages(t, strategy, false)
		for at := int64(1); at <= total; at++ {
			for _, after := range []bool{false, true} {
				deck = append(deck, trial{
					"cuts", fmt.Sprintf("%s/message %d answered %v", strategy, at, after),
					func(t *testing.T, _ uint64) { cutAt(t, strategy, &cutter{at: at, after: after}) },
				})
			}
		}
		deck = append(deck, interleavings(strategy)...)
		deck = append(deck, terminations(strategy)...)
		deck = append(deck, kills(strategy)...)
		deck = append(deck, crashing.trials(strategy, total)...)
		deck = append(deck, randomRuns(strategy)...)
	}
	return deck
}
