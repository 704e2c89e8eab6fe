package snapshots

import (
	"slices"
	"testing"
)

// TestWhichSnapshotsAreOld: those that were there before, as they are now, and those
// that may have been imported from one of them.
func TestWhichSnapshotsAreOld(t *testing.T) {
	t.Parallel()
	type holders = []Holder
	exporter := Holder{PID: 1, Transaction: "3/7", Xmin: "100", Exporter: true}
	plain := Holder{PID: 2, Transaction: "4/9", Xmin: "200"}
	with := func(h Holder, change func(*Holder)) Holder { change(&h); return h }
	importer := Holder{PID: 5, Transaction: "5/1", Xmin: "100"}
	for _, c := range []struct {
		name           string
		old, now, want holders
	}{
		{"still there", holders{exporter, plain}, holders{exporter, plain}, holders{exporter, plain}},
		{"gone", holders{exporter, plain}, nil, nil},
		{"new ones", holders{plain}, holders{importer}, nil},
		{"another transaction of the session", holders{plain}, holders{with(plain, func(h *Holder) { h.Transaction = "4/10" })}, nil},
		{"xmin has moved", holders{plain}, holders{with(plain, func(h *Holder) { h.Xmin = "201" })}, nil},
		{"another session with the transaction", holders{plain}, holders{with(plain, func(h *Holder) { h.PID = 3 })}, nil},
		{"imported, the exporter is gone", holders{exporter}, holders{importer}, holders{importer}},
		{"imported, the exporter is there", holders{exporter}, holders{importer, exporter}, holders{exporter, importer}},
		{"the same xmin by chance", holders{plain}, holders{{PID: 6, Transaction: "6/1", Xmin: "200"}}, nil},
		{
			"may export only by now",
			holders{with(exporter, func(h *Holder) { h.Exporter = false })},
			holders{exporter},
			holders{exporter},
		},
	} {
		old := slices.Clone(c.old)
		if got := union(intersection(old, c.now), imported(old, c.now)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
