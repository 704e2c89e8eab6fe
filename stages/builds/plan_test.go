package builds

import (
	"fmt"
	"slices"
	"testing"
)

// TestShareProcessors: a processor that has an index of its own to build helps with
// no other, and none is idle while one is built for long.
func TestShareProcessors(t *testing.T) {
	for _, c := range []struct {
		processors int
		costs      []float64
		want       []int
	}{
		{1, []float64{10, 10}, []int{1, 1}},
		{2, nil, nil},
		{2, []float64{10}, []int{2}},
		{2, []float64{10, 10}, []int{1, 1}},
		{2, []float64{10, 10, 10}, []int{1, 1, 2}},
		{2, []float64{10, 10, 10, 10}, []int{1, 1, 1, 1}},
		{2, []float64{10, 9, 8}, []int{1, 1, 2}},
		{2, []float64{10, 5, 5}, []int{1, 1, 1}},
		{2, []float64{10, 1}, []int{2, 1}},
		{2, []float64{10, 9, 1}, []int{1, 1, 1}},
		{4, []float64{10}, []int{4}},
		{4, []float64{10, 10}, []int{2, 2}},
		{4, []float64{10, 10, 10}, []int{1, 1, 1}},
		{4, []float64{10, 10, 10, 10, 10}, []int{1, 1, 1, 1, 4}},
		{4, []float64{10, 10, 10, 10, 10, 10}, []int{1, 1, 1, 1, 2, 2}},
	} {
		if got := shareProcessors(c.costs, c.processors); !slices.Equal(got, c.want) {
			t.Errorf("%d processors, costs %v: %v, want %v", c.processors, c.costs, got, c.want)
		}
	}
}

// TestSortMemory: each process has its share of the entries and of the memory.
func TestSortMemory(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct {
		size    int64
		helpers int
		want    int64 // MB
	}{
		{0, 0, 8},
		{60 * mb, 0, 8},
		{0, 1, 64},
		{90 * mb, 3, 128},
		{1 << 40, 0, 1055},
		{1 << 40, 1, 1492},
	} {
		if got := sortMemory(c.size, c.helpers) / mb; got != c.want {
			t.Errorf("%s: %d MB, want %d", fmt.Sprintf("%d bytes, %d helpers", c.size, c.helpers), got, c.want)
		}
	}
}

// TestBuildCost: of as many entries, those at random and those that are longer cost more.
func TestBuildCost(t *testing.T) {
	ordered, random, longer := buildCost(100e6, 4e6, true), buildCost(50e6, 4e6, false), buildCost(300e6, 4e6, false)
	if unknown := buildCost(80e6, 0, false); ordered >= random || random >= longer || unknown < ordered || unknown > longer {
		t.Errorf("in order %.0f, at random %.0f, longer %.0f, with entries that are not known %.0f", ordered, random, longer, unknown)
	}
}
