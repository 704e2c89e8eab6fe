package stages

import "testing"

func TestMegabytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 MB", 1: "1 MB", 1 << 20: "1 MB", 1<<20 + 1: "2 MB", 1 << 40: "1048576 MB"} {
		if got := megabytes(n); got != want {
			t.Errorf("%d bytes: %s, want %s", n, got, want)
		}
	}
}
