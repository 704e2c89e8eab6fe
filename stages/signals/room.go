package signals

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/repack-go/repack/internal/size"
)

// Need is how much a copy will take in a directory.
type Need struct {
	Directory string // empty: the data directory
	Bytes     int64
}

// Copy is what a copy will take.
type Copy struct {
	Needs []Need
	WAL   int64
	// Estimated tells that Needs are an estimate, and not what there can be at most.
	Estimated bool
}

// LimitFree reports whether free space has a limit.
func (s *Set) LimitFree() bool {
	return slices.ContainsFunc(s.list, func(signal Signal) bool {
		switch signal.(type) {
		case *disk, *command:
			return true
		}
		return false
	})
}

// Room makes sure that a copy and its write-ahead log fit where free space has a limit: at the end,
// the limit must still be kept. Otherwise work would be stopped half-way, for good. It returns
// *checks.RefusedError if they do not.
func (s *Set) Room(ctx context.Context, c Copy) error {
	for _, signal := range s.list {
		var why string
		var err error
		switch signal := signal.(type) {
		case *disk:
			why, err = signal.lacks(ctx, c)
		case *command:
			why, err = signal.lacks(ctx, c)
		}
		if err != nil {
			return err
		}
		if why != "" {
			return refused(signal.Flag(), why, "free space, or lower --min-free-disk")
		}
	}
	return nil
}

// needed says what is needed, such as "needs at most 418 MB and 418 MB of WAL".
func (c Copy) needed(copied, wal int64) string {
	var parts []string
	if copied > 0 {
		parts = append(parts, size.Text(copied))
	}
	if wal > 0 {
		parts = append(parts, size.Text(wal)+" of WAL")
	}
	if c.Estimated {
		return "needs about " + strings.Join(parts, " and ")
	}
	return "needs at most " + strings.Join(parts, " and ")
}

// lacks says what does not fit, or nothing.
func (c *command) lacks(ctx context.Context, of Copy) (string, error) {
	var copied int64
	for _, n := range of.Needs {
		copied += n.Bytes
	}
	free, err := c.clock.read(ctx, commandEvery, c.read)
	if err != nil || free-copied-of.WAL >= c.limit {
		return "", err
	}
	return fmt.Sprintf("%s, free %s, to be kept free %s", of.needed(copied, of.WAL), size.Text(free), size.Text(c.limit)), nil
}

// lacks says what does not fit, or nothing. Directories on the same device share its space.
func (d *disk) lacks(ctx context.Context, of Copy) (string, error) {
	list, err := d.read(ctx)
	if err != nil {
		return "", err
	}
	data := list[0].path
	for _, s := range list {
		on := device(s.path)
		var copied, logged int64
		for _, n := range of.Needs {
			directory := n.Directory
			if directory == "" {
				directory = data
			}
			if device(directory) == on {
				copied += n.Bytes
			}
		}
		if device(filepath.Join(data, "pg_wal")) == on {
			logged = of.WAL
		}
		if keep := d.keep(s); copied+logged > 0 && s.free-copied-logged < keep {
			return fmt.Sprintf("%s in %s, free %s, to be kept free %s", of.needed(copied, logged), s.path, size.Text(s.free), size.Text(keep)), nil
		}
	}
	return "", nil
}
