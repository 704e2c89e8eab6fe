package signals

import (
	"context"
	"encoding/binary"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/repack-go/repack/stages/throttle"
)

// TestSlotVerdict: the size and the state of a slot count, whichever slot it is.
func TestSlotVerdict(t *testing.T) {
	t.Parallel()
	s := &slots{limit: 100 << 20}
	for _, c := range []struct {
		name string
		list []slot
		stop string
		used float64
	}{
		{"none", nil, "", 0},
		{"at the limit", []slot{{"a", 100 << 20, "reserved"}}, "", 1},
		{"above", []slot{{"a", 150 << 20, "extended"}, {"b", 1, "reserved"}}, "slot a retains 150 MB of WAL, limit 100 MB", 1.5},
		{"unreserved", []slot{{"a", 50 << 20, "reserved"}, {"b", 1, "unreserved"}}, "slot b is unreserved", 0.5},
		{"lost", []slot{{"b", 0, "lost"}}, "slot b is lost", 0},
	} {
		v := s.verdict(c.list)
		if v.Stop != (c.stop != "") || v.Reason != c.stop || v.Utilisation != c.used {
			t.Errorf("%s: %+v, want %q, %f", c.name, v, c.stop, c.used)
		}
	}
}

// TestDiskVerdict: each directory has its own limit, if the limit is a part of the disk.
func TestDiskVerdict(t *testing.T) {
	t.Parallel()
	list := []space{{"/data", 300, 1000}, {"/data/pg_wal", 300, 1000}, {"/fast", 90, 500}}
	for _, c := range []struct {
		name string
		disk *disk
		stop bool
	}{
		{"enough", &disk{limit: 90}, false},
		{"too little in a tablespace", &disk{limit: 91}, true},
		{"enough, in part", &disk{percent: 18}, false},
		{"too little, in part", &disk{percent: 19}, true},
	} {
		if v := c.disk.verdict(list); v.Stop != c.stop || v.Stop && !strings.Contains(v.Reason, "in /fast") || v.Utilisation < 0.95 {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
}

func TestStops(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value any
		want  bool
	}{
		{true, true},
		{false, false},
		{int16(1), true},
		{int32(0), false},
		{int64(-1), false},
		{float32(0.1), true},
		{float64(0), false},
		{pgtype.Numeric{Int: big.NewInt(3), Exp: -1, Valid: true}, true},
		{pgtype.Numeric{NaN: true, Valid: true}, false},
	} {
		if got, err := stops(c.value); got != c.want || err != nil {
			t.Errorf("%T %v: %t, %v", c.value, c.value, got, err)
		}
	}
	if _, err := stops("t"); err == nil {
		t.Error("a text is taken for an answer")
	}
}

// TestCommand: the first line is a number of bytes. What is none, a failure with its message, and
// a command that leaves something behind which holds its output, are errors.
func TestCommand(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, says string }{
		{"echo 1000; echo more", ""},
		{"echo lots", "no number of bytes"},
		{"echo no disk >&2; exit 3", "no disk"},
		{"sleep 100 & echo 1000", "WaitDelay"},
	} {
		began := time.Now()
		free, err := (&command{text: c.text, limit: 1}).read(t.Context())
		if c.says == "" && (err != nil || free != 1000) || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %d, %v; want %q", c.text, free, err, c.says)
		}
		if took := time.Since(began); took > commandFor {
			t.Errorf("%s: took %s", c.text, took)
		}
	}
	c := command{text: "echo 1000", limit: 1001}
	if v, err := c.Check(t.Context(), throttle.Copying); !v.Stop || err != nil {
		t.Errorf("less than the limit: %+v, %v", v, err)
	}
	if v, err := c.Check(t.Context(), throttle.Comparing); v.Stop || err != nil {
		t.Errorf("a comparison writes nothing: %+v, %v", v, err)
	}
}

// TestBelongs: the data directory of another server, and what is none, is not looked at.
func TestBelongs(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	if err := belongs(data, 7); err == nil {
		t.Error("a directory without a control file belongs to the server")
	}
	if err := os.Mkdir(filepath.Join(data, "global"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "global", "pg_control"), binary.NativeEndian.AppendUint64(nil, 7), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := belongs(data, 7); err != nil {
		t.Error(err)
	}
	if err := belongs(data, 8); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("a directory of another server: %v", err)
	}
}

// TestRoom: what is on the same device is added up; what there is no room for is named.
func TestRoom(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		copy  Copy
		limit int64
		says  string
	}{
		{"enough", Copy{Needs: []Need{{"", 400}, {"/fast", 200}}, WAL: 300}, 100, ""},
		{"one byte too much", Copy{Needs: []Need{{"", 400}, {"/fast", 200}}, WAL: 301}, 100, "needs at most 600 bytes and 301 bytes of WAL, free 1000 bytes, to be kept free 100 bytes"},
		{"estimated, unlogged", Copy{Needs: []Need{{"", 901}}, Estimated: true}, 100, "needs about 901 bytes, free 1000 bytes"},
	} {
		why, err := (&command{text: "echo 1000", limit: c.limit}).lacks(t.Context(), c.copy)
		if err != nil || (why == "") != (c.says == "") || !strings.HasPrefix(why, c.says) {
			t.Errorf("%s: %q, %v", c.name, why, err)
		}
	}
}

// TestClock: a reading is kept for its time; a failure is not kept.
func TestClock(t *testing.T) {
	t.Parallel()
	var c clock[int]
	reads := 0
	read := func(err error) func(context.Context) (int, error) {
		return func(context.Context) (int, error) { reads++; return reads, err }
	}
	for _, step := range []struct {
		err  error
		want int
	}{{context.Canceled, 1}, {nil, 2}, {context.Canceled, 2}} {
		if got, _ := c.read(t.Context(), time.Hour, read(step.err)); got != step.want {
			t.Errorf("reading %d, want %d", got, step.want)
		}
	}
}
