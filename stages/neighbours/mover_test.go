package neighbours

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/steps"
)

// TestJoint: what is still to be done for a foreign key is told by which of its two
// keys there are.
func TestJoint(t *testing.T) {
	t.Parallel()
	table, copied, other := catalog.Name{Schema: "app", Name: "t"}, catalog.Name{Schema: "s", Name: "t"}, catalog.Name{Schema: "app", Name: `the "other"`}
	key := func(name string, from, to catalog.Name, valid bool) *catalog.ForeignKey {
		return &catalog.ForeignKey{Name: name, Table: from, Referenced: to, Validated: valid, Enforced: true}
	}
	out, outCopy := key("k", table, other, true), key("tmp", copied, other, false)
	in, inCopy := key("k", other, table, true), key("tmp", other, copied, true)
	loose := key("k", other, table, false)
	free := key("k", other, table, true)
	free.Enforced = false
	freeCopy := key("tmp", other, copied, false)
	freeCopy.Enforced = false
	for _, c := range []struct {
		name                string
		j                   joint
		joined, unvalidated bool
		made                *catalog.ForeignKey
		text                string
	}{
		{"of the table, copy's not valid yet", joint{outgoing: true, main: out, other: outCopy, own: out}, true, true, outCopy, `foreign key "k" of "app"."t"`},
		{"to the table, both valid", joint{main: in, other: inCopy, own: in}, true, false, inCopy, `foreign key "k" of "app"."the ""other"""`},
		{"not made yet", joint{main: in, own: in}, false, false, nil, `foreign key "k" of "app"."the ""other"""`},
		{"the table's is the one we have made", joint{main: inCopy, other: in, own: in}, true, false, inCopy, `foreign key "k" of "app"."the ""other"""`},
		{"dropped by the application", joint{main: in, other: inCopy}, false, false, in, `foreign key "k" of "app"."the ""other"""`},
		{"dropped, only the copy's left", joint{outgoing: true, other: outCopy}, false, false, nil, `foreign key "tmp" of "s"."t"`},
		{"the application's is not valid", joint{main: loose, other: key("tmp", other, copied, false), own: loose}, true, false, nil, `foreign key "k" of "app"."the ""other"""`},
		{"the application's is not enforced any more", joint{main: free, other: key("tmp", other, copied, false), own: free}, false, false, nil, `foreign key "k" of "app"."the ""other"""`},
		{"the application's is not enforced", joint{main: free, other: freeCopy, own: free}, true, false, nil, `foreign key "k" of "app"."the ""other"""`},
	} {
		if c.j.joined() != c.joined || c.j.unvalidated() != c.unvalidated {
			t.Errorf("%s: joined %t, unvalidated %t", c.name, c.j.joined(), c.j.unvalidated())
		}
		if c.made != nil && c.j.made() != c.made {
			t.Errorf("%s: made %v, want %v", c.name, c.j.made(), c.made)
		}
		if got := c.j.String(); got != c.text {
			t.Errorf("%s: %s, want %s", c.name, got, c.text)
		}
		if got := c.j.neighbour(); got != other {
			t.Errorf("%s: the neighbour is %s", c.name, got)
		}
	}
}

// TestOutgoingFirst keeps the order of each kind.
func TestOutgoingFirst(t *testing.T) {
	t.Parallel()
	named := func(name string, outgoing bool) joint {
		return joint{outgoing: outgoing, own: &catalog.ForeignKey{Name: name}}
	}
	list := []joint{named("a", false), named("b", true), named("c", false), named("d", true), named("e", false)}
	outgoingFirst(list)
	var got []string
	for _, j := range list {
		got = append(got, j.own.Name)
	}
	if want := []string{"b", "d", "a", "c", "e"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestTemporaryName: names of ours fit the server's 63 bytes, and two that differ in
// their last letter still do.
func TestTemporaryName(t *testing.T) {
	t.Parallel()
	m := &Mover{Worker: &steps.Worker{Job: &registry.Job{ID: 7, Capture: "repack_capture_7"}}}
	longest := strings.Repeat("x", maxName-len(m.temporaryPrefix()))
	for _, name := range []string{"k", longest} {
		if got := m.temporaryName(name); got != m.temporaryPrefix()+name {
			t.Errorf("%s is called %s", name, got)
		}
	}
	made := map[string]string{}
	for _, name := range []string{longest + "a", longest + "b", strings.Repeat("ł", 31), strings.Repeat("ł", 31) + "x", strings.Repeat("x", maxName)} {
		got := m.temporaryName(name)
		if len(got) > maxName || !utf8.ValidString(got) || !strings.HasPrefix(got, m.temporaryPrefix()) {
			t.Errorf("%s is called %q, of %d bytes", name, got, len(got))
		}
		if other, there := made[got]; there {
			t.Errorf("%s is called as %s is", name, other)
		}
		made[got] = name
	}
}
