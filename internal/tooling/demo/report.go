package demo

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// printer writes the demo's plain text. What cannot be written is lost: it
// must not end a demo that has a server to remove.
type printer struct{ w io.Writer }

func (p printer) title(text string) { _, _ = fmt.Fprintf(p.w, "\n%s\n", text) }

func (p printer) line(format string, args ...any) {
	text := fmt.Sprintf("  "+format, args...)
	_, _ = fmt.Fprintln(p.w, strings.TrimRight(text, " "))
}

// at prints a line of something that goes on since began.
func (p printer) at(began time.Time, text string) {
	p.line("%6.1f s  %s", time.Since(began).Seconds(), text)
}

// sizes prints how large the table and its indexes were and are.
func (p printer) sizes(before, after view) {
	p.title("Size on disk")
	p.line("%-24s %12s %12s", "", "before", "after")
	was := map[string]int64{}
	for _, s := range before.sizes {
		was[s.Relation] = s.Bytes
	}
	for _, s := range after.sizes {
		p.line("%-24s %12s %12s", s.Relation, megabytes(was[s.Relation]), megabytes(s.Bytes))
	}
	p.line("%-24s %12s %12s", "together", megabytes(before.total()), megabytes(after.total()))
}

// waits prints what the writers noticed.
func (p printer) waits(l *load) {
	p.title(fmt.Sprintf("What the %d writers noticed", writers))
	p.line("%-18s %33s %18s %10s", "", "", "transaction", "statement")
	p.line("%-18s %8s %13s %10s %8s %9s %10s", "", "seconds", "transactions", "a second", "median", "longest", "longest")
	last := len(moments) - 1
	p.span(l, "before the run", 0, 1)
	p.span(l, "during the run", 1, last)
	for m := 1; m < last; m++ {
		p.span(l, "  "+moments[m], m, m+1)
	}
	p.span(l, "after the run", last, last+1)
}

// span prints one line for the moments from first up to but not including end.
func (p printer) span(l *load, name string, first, end int) {
	seen := l.seen(first, end)
	slices.Sort(seen.transactions)
	n := len(seen.transactions)
	var median time.Duration
	if n > 0 {
		median = seen.transactions[n/2]
	}
	took := l.clock.took(first, end).Seconds()
	p.line("%-18s %8.1f %13s %10s %8s %9s %10s", name, took, count(int64(n)), count(int64(float64(n)/took)),
		milliseconds(median), milliseconds(seen.longest), milliseconds(seen.statement))
}

// proof prints what was compared, and the verdict.
func (p printer) proof(proof *proof) {
	p.title("Proof: every row was compared")
	p.line("Those of customers a writer has touched, with what the writers recorded; the")
	p.line("others with what they were made as.")
	p.line("")
	p.line("%-18s %12s %12s %9s %9s %10s", "", "rows", "recorded", "missing", "extra", "different")
	for _, c := range proof.tables {
		p.line("%-18s %12s %12s %9s %9s %10s", c.table, count(c.Found), count(c.Recorded),
			count(c.Missing), count(c.Extra), count(c.Different))
	}
	p.line("")
	for _, c := range proof.checks() {
		p.line("%-48s %s", c.what, c.found)
	}
}

// verdict prints what failed, or the gist of it all.
func (p printer) verdict(proof *proof, l *load) {
	failures := proof.failures()
	if len(failures) > 0 {
		p.title("THE PROOF DOES NOT HOLD:")
		for _, f := range failures {
			p.line("%s", f)
		}
		return
	}
	last := len(moments) - 1
	p.title("The proof holds: every row is there, and no writer saw an error.")
	p.line("%s became %s in %.1f s; no statement of a writer took longer than %s.",
		megabytes(proof.before.total()), megabytes(proof.after.total()),
		l.clock.took(1, last).Seconds(), milliseconds(l.seen(1, last).statement))
}

// count writes a number with a comma between thousands.
func count(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func megabytes(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/(1<<20)) }

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
