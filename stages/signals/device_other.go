//go:build !unix

package signals

import "path/filepath"

// device returns what two directories have in common if they share their free space.
func device(path string) string { return filepath.VolumeName(path) }
