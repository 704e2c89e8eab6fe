package pgtest

import "syscall"

const (
	// memoryDir is a file system in memory that everybody may use.
	memoryDir = "/dev/shm"
	// serverRoom is more than the servers of a few packages take, in bytes: they
	// hold two dozen databases of 8 MB, and the log.
	serverRoom = 4 << 30
)

// roomInMemory is a directory in memory with room for servers, or empty.
func roomInMemory() string {
	var free syscall.Statfs_t
	if err := syscall.Statfs(memoryDir, &free); err != nil || free.Bavail*uint64(free.Bsize) < serverRoom {
		return ""
	}
	return memoryDir
}
