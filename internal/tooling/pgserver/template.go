package pgserver

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// initdbArgs make a data directory alike on every machine. The locale is C, the
// only one that is everywhere and sorts alike everywhere.
var initdbArgs = []string{
	"--username=" + Superuser, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions",
}

// copyInitialised copies what initdb has made of an earlier server of the same
// programs. ok is false where there is nothing yet.
func (s *Server) copyInitialised() (ok bool, err error) {
	from, err := s.initialised()
	if err != nil {
		return false, err
	}
	err = s.copyDirectory(from, s.dataDir())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// keepInitialised keeps a new data directory for later servers. Another process may
// do the same at the same time: the first one to rename wins.
func (s *Server) keepInitialised() error {
	to, err := s.initialised()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(to), "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	data := filepath.Join(work, "data")
	if err := s.copyDirectory(s.dataDir(), data); err != nil {
		return err
	}
	if err := os.Rename(data, to); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// initialised is where the data directory of the server's programs is kept: those
// that an update has replaced have another.
func (s *Server) initialised() (string, error) {
	program, err := exec.LookPath(filepath.Join(s.opts.BinDir, "postgres"))
	if err != nil {
		return "", err
	}
	info, err := os.Stat(program)
	if err != nil {
		return "", err
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s %d %s %q", program, info.Size(), info.ModTime(), initdbArgs))
	return filepath.Join(s.opts.Cache, fmt.Sprintf("initdb-%x", key[:8])), nil
}

func (s *Server) copyDirectory(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		if entry.IsDir() {
			err = os.Mkdir(target, 0o700)
		} else {
			err = copyFile(path, target)
		}
		if err != nil {
			return err
		}
		return s.account.own(target)
	})
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer target.Close()
	if _, err := io.Copy(target, source); err != nil {
		return err
	}
	return target.Close()
}

// runInitdb makes the data directory.
func (s *Server) runInitdb(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.opts.BinDir, "initdb"), append(initdbArgs, "--pgdata="+s.dataDir())...)
	cmd.Dir = s.dir
	s.account.apply(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb as user %s: %w\n%s", s.account.name, err, out)
	}
	return nil
}
