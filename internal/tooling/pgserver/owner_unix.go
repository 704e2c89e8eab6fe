//go:build unix

package pgserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ownerFile is locked by the process that a server's directory belongs to, for as
// long as that lives. The server's programs do not inherit it.
const ownerFile = "owner"

// claim locks the directory for us.
func (s *Server) claim() error {
	file, err := os.Create(filepath.Join(s.dir, ownerFile))
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
	}
	s.owner = file
	return nil
}

// Sweep removes the directories of servers in parent whose process has died
// without closing them.
func Sweep(parent string) error {
	files, err := filepath.Glob(filepath.Join(parent, dirPattern+"*", ownerFile))
	if err != nil {
		return err
	}
	for _, path := range files {
		err = errors.Join(err, sweep(path))
	}
	return err
}

func sweep(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return nil // it has just been removed, or is another user's
	}
	defer file.Close()
	if syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil // its process lives
	}
	return os.RemoveAll(filepath.Dir(path))
}
