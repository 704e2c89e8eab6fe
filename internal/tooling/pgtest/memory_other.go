//go:build !linux

package pgtest

// roomInMemory is empty: where such a directory is differs.
func roomInMemory() string { return "" }
