//go:build unix

package signals

import (
	"fmt"
	"os"
	"syscall"
)

// device returns what two directories have in common if they share their free space. A directory
// that cannot be read shares it with no other.
func device(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return path
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprint(stat.Dev)
	}
	return path
}
