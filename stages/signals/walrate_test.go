package signals

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/chunker"
	"github.com/repack-go/repack/stages/throttle"
)

const mega = 1 << 20

// copying is a server on which workers copy a table, at a speed that they share.
type copying struct {
	lsn     atomic.Int64
	working atomic.Int64
	speed   int64 // bytes a second
}

// copyBlocks takes as long as the speed says. The log grows all the while.
func (c *copying) copyBlocks(blocks int64) (took time.Duration) {
	c.working.Add(1)
	defer c.working.Add(-1)
	began := time.Now()
	for left := blocks * 8192; left > 0; {
		step := min(left, mega/4)
		time.Sleep(time.Duration(step*c.working.Load()) * time.Second / time.Duration(c.speed))
		c.lsn.Add(step)
		left -= step
	}
	return time.Since(began)
}

// TestWALRate: whatever the speed and the number of workers, what is written in any ten seconds is
// at most a tenth above the limit. And a fair part of what may be written is written.
func TestWALRate(t *testing.T) {
	t.Parallel()
	for _, jobs := range []int{1, 2, 4} {
		for _, c := range []struct{ speed, limit int64 }{{20, 10}, {100, 10}, {400, 10}, {400, 50}, {100, 1000}, {20, 2}, {100, 2}, {400, 2}} {
			t.Run(fmt.Sprintf("%d jobs, %d MB/s, limit %d", jobs, c.speed, c.limit), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { writeAtMost(t, jobs, c.speed*mega, c.limit*mega) })
			})
		}
	}
}

func writeAtMost(t *testing.T, jobs int, speed, limit int64) {
	server := &copying{speed: speed}
	rate := &walRate{current: func(context.Context) (int64, error) { return server.lsn.Load(), nil }, limit: limit}
	slots := throttle.New(nil, jobs, false)
	slots.Obey(slog.New(slog.DiscardHandler), rate)
	chunks := chunker.New([]registry.Chunk{{End: min(speed, limit) * 30 / 8192}}, 256, throttle.ChunkTime, jobs)
	began := time.Now()
	var group sync.WaitGroup
	for range jobs {
		group.Go(func() {
			for more := true; more; {
				more, _ = slots.Chunk(t.Context(), throttle.Copying, func() (bool, error) {
					chunks.Aim(slots.PieceTime(throttle.ChunkTime))
					chunk, ok := chunks.Next()
					if ok {
						chunk.Took = server.copyBlocks(chunk.End - chunk.First)
						chunks.Done(chunk)
					}
					return ok, nil
				})
			}
		})
	}
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	var seen []int64 // each tenth of a second
	for isDone := false; !isDone; {
		seen = append(seen, server.lsn.Load())
		select {
		case <-done:
			isDone = true
		case <-time.After(100 * time.Millisecond):
		}
	}
	const tenSeconds = 100
	for i, lsn := range seen {
		if mean := (lsn - seen[max(i-tenSeconds, 0)]) / 10; mean > limit*11/10 {
			t.Fatalf("in the ten seconds until %d s, %d kB a second were written, limit %d", i/10, mean>>10, limit>>10)
		}
	}
	if took := time.Since(began); took > 50*time.Second {
		t.Errorf("what could be written in half a minute took %s", took)
	}
}

// TestWALRateOfLargePieces: a piece that is larger than what may be written in five seconds begins
// nevertheless, when others write little.
func TestWALRateOfLargePieces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lsn := int64(0)
		rate := &walRate{current: func(context.Context) (int64, error) { return lsn, nil }, limit: mega}
		pieces := 0
		began := time.Now()
		for time.Since(began) < time.Minute {
			lsn += mega / 20 // others, each half second
			v, err := rate.Check(t.Context(), throttle.Copying)
			if err != nil {
				t.Fatal(err)
			}
			if !v.Stop {
				lsn += 100 * mega
				pieces++
			}
			time.Sleep(500 * time.Millisecond)
		}
		if pieces < 5 || pieces > 7 {
			t.Errorf("%d pieces in a minute", pieces)
		}
	})
}
