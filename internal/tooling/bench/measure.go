package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// cost is what a run took.
type cost struct {
	time      time.Duration
	wal       int64 // bytes
	serverCPU time.Duration
	clientCPU time.Duration
	clientMem int64 // bytes, at most
}

// measure runs a contender on a fresh copy.
func (b *bench) measure(ctx context.Context, c contender) (cost, error) {
	if err := b.fresh(ctx); err != nil {
		return cost{}, err
	}
	return b.costOf(ctx, c)
}

// costOf runs a contender on the copy as it is.
func (b *bench) costOf(ctx context.Context, c contender) (cost, error) {
	conn, err := pgx.Connect(ctx, b.server.ConnString(copied))
	if err != nil {
		return cost{}, fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	lsn, cpu, err := b.meters(ctx, conn)
	if err != nil {
		return cost{}, err
	}
	began := time.Now()
	wait, err := b.start(ctx, c)
	if err != nil {
		return cost{}, err
	}
	state, err := wait()
	if err != nil {
		return cost{}, err
	}
	r := cost{time: time.Since(began)}
	lsnAfter, cpuAfter, err := b.meters(ctx, conn)
	if err != nil {
		return cost{}, err
	}
	r.wal, r.serverCPU = lsnAfter-lsn, cpuAfter-cpu
	if state != nil {
		r.clientCPU = state.UserTime() + state.SystemTime()
		r.clientMem = state.SysUsage().(*syscall.Rusage).Maxrss << 10
	}
	return r, nil
}

// median runs a contender as often as asked, and takes each figure's median.
func (b *bench) median(ctx context.Context, c contender) (cost, error) {
	return b.medianOf(func() (cost, error) { return b.measure(ctx, c) })
}

// medians is median of several contenders, who take turns: what else the machine does
// from one minute to the next is shared among them.
func (b *bench) medians(ctx context.Context, contenders []contender) ([]cost, error) {
	all := make([][]cost, len(contenders))
	for range b.runs {
		for i, c := range contenders {
			r, err := b.measure(ctx, c)
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], r)
		}
	}
	var results []cost
	for _, costs := range all {
		results = append(results, middleOf(costs))
	}
	return results, nil
}

func (b *bench) medianOf(measure func() (cost, error)) (cost, error) {
	var costs []cost
	for range b.runs {
		r, err := measure()
		if err != nil {
			return cost{}, err
		}
		costs = append(costs, r)
	}
	return middleOf(costs), nil
}

func middleOf(costs []cost) cost {
	return cost{
		time:      middle(costs, func(c cost) time.Duration { return c.time }),
		wal:       middle(costs, func(c cost) int64 { return c.wal }),
		serverCPU: middle(costs, func(c cost) time.Duration { return c.serverCPU }),
		clientCPU: middle(costs, func(c cost) time.Duration { return c.clientCPU }),
		clientMem: middle(costs, func(c cost) int64 { return c.clientMem }),
	}
}

func middle[R any, T cmp.Ordered](results []R, figure func(R) T) T {
	var all []T
	for _, r := range results {
		all = append(all, figure(r))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// meters reads how much WAL has been written and how much processor time the
// server's processes have used, ended ones included.
func (b *bench) meters(ctx context.Context, conn *pgx.Conn) (lsn int64, cpu time.Duration, err error) {
	if err := conn.QueryRow(ctx, `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint`).Scan(&lsn); err != nil {
		return 0, 0, fmt.Errorf("read WAL position: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(b.server.Dir(), "data", "postmaster.pid"))
	if err != nil {
		return 0, 0, fmt.Errorf("read the server's pid: %w", err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, 0, fmt.Errorf("list processes: %w", err)
	}
	for _, path := range stats {
		if text, err := os.ReadFile(path); err == nil { // others end meanwhile
			cpu += cpuOf(string(text), first)
		}
	}
	return lsn, cpu, nil
}

// clockTick is the unit of proc(5)'s times on Linux.
const clockTick = 10 * time.Millisecond

// cpuOf is the processor time of a process, if it is the server or a child of
// it, with that of its ended children: fields 14 to 17 of proc(5)'s stat.
func cpuOf(stat, server string) (cpu time.Duration) {
	pid, _, _ := strings.Cut(stat, " ")
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if pid != server && fields[1] != server {
		return 0
	}
	for _, field := range fields[11:15] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err == nil {
			cpu += time.Duration(ticks) * clockTick
		}
	}
	return cpu
}
