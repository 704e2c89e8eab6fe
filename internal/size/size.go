// Package size reads and writes sizes as PostgreSQL does: 1 kB is 1024 bytes.
package size

import (
	"fmt"
	"math"

	"github.com/docker/go-units"
)

// Parse reads a size such as 100MB. It returns an error for what is none, and for negative ones.
func Parse(text string) (bytes int64, err error) {
	bytes, err = units.RAMInBytes(text)
	if err != nil || bytes < 0 {
		return 0, fmt.Errorf("%q is not a size, such as 100MB or 2GB", text)
	}
	return bytes, nil
}

// Text writes a size with at most four digits before its unit, as pg_size_pretty does.
func Text(bytes int64) string {
	names := []string{"bytes", "kB", "MB", "GB", "TB"}
	size, unit := float64(bytes), 0
	for math.Abs(size) >= 10_000 && unit < len(names)-1 {
		size, unit = size/1024, unit+1
	}
	return fmt.Sprintf("%.0f %s", size, names[unit])
}
