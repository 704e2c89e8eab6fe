package main

import (
	"strings"
	"testing"

	"github.com/repack-go/repack/repack"
)

func TestProgressOfBuilds(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	p := &progress{shown: true, out: &out}
	percent := func(n float64) *float64 { return &n }
	p.drawBuilds([]repack.IndexBuild{
		{Index: "orders_pkey", Phase: "building index: scanning table", Percent: percent(40)},
		{Index: "orders_note", Phase: "building index: loading tuples in tree", Percent: percent(100)},
	})
	p.drawBuilds([]repack.IndexBuild{{Index: "orders_pkey", Phase: "building index: sorting live tuples"}})
	p.drawBuilds([]repack.IndexBuild{{Index: "orders_pkey", Phase: "building index: loading tuples in tree", Percent: percent(100)}})
	p.finish()
	p.draw(repack.Progress{Blocks: 1, TotalBlocks: 2}) // a bar of its own
	p.finish()
	for _, want := range []string{
		"building orders_pkey: scanning table (and 1 more)  40%",
		"building orders_pkey: sorting live tuples   0%",
		"building orders_pkey: loading tuples in tree  99%",
		"copying blocks",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not drawn:\n%q", want, out.String())
		}
	}
}
