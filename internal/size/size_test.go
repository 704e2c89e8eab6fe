package size

import (
	"math"
	"testing"
)

// TestText: the next unit is taken from five digits on.
func TestText(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0 bytes", 1: "1 bytes", 9999: "9999 bytes", 10_000: "10 kB", -9999: "-9999 bytes", -10_240: "-10 kB",
		9999 << 10: "9999 kB", 10_000 << 10: "10 MB", 418 << 30: "418 GB", 20_000 << 30: "20 TB", math.MaxInt64: "8388608 TB", math.MinInt64: "-8388608 TB",
	} {
		if got := Text(n); got != want {
			t.Errorf("%d bytes: %s, want %s", n, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"0": 0, "1000": 1000, "1kB": 1 << 10, "1 kB": 1 << 10, "1.5MB": 3 << 19, "2gb": 2 << 30, "3TB": 3 << 40,
		"": -1, "-1": -1, "-1GB": -1, "GB": -1, "1XB": -1, "50%": -1, "1e30TB": -1, "NaN": -1,
	} {
		got, err := Parse(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
}
