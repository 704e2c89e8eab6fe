package repack

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/repack-go/repack/internal/size"
	"github.com/repack-go/repack/internal/window"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/throttle"
)

// withHours reads Window and SwapWindow.
func (o Options) withHours() (Options, error) {
	zone := time.Local
	if o.Timezone != "" {
		var err error
		if zone, err = time.LoadLocation(o.Timezone); err != nil {
			return o, &UsageError{fmt.Errorf("time zone %q: %w", o.Timezone, err)}
		}
	}
	work, err := window.Parse(o.Window, zone)
	if err != nil {
		return o, &UsageError{err}
	}
	swap, err := window.Parse(o.SwapWindow, zone)
	if err != nil {
		return o, &UsageError{err}
	}
	o.hours = throttle.Hours{Work: work, Swap: swap, Wait: o.OutsideWait}
	return o, nil
}

// throttlers are those that o asks for.
func (o Options) throttlers() []throttle.Throttler {
	return append([]throttle.Throttler{o.hours}, o.Throttlers...)
}

// settings are the options that can be changed while a run is at work, by the names of their
// flags. Each reads a value as its flag does.
var settings = map[string]func(o *Options, value string) error{
	"jobs": func(o *Options, value string) (err error) {
		if o.Jobs, err = strconv.Atoi(value); err == nil && o.Jobs < 1 {
			err = fmt.Errorf("want 1 or more")
		}
		return err
	},
	"nice": func(o *Options, value string) (err error) {
		if o.Nice, err = strconv.ParseFloat(value, 64); err == nil && o.Nice < 0 {
			err = fmt.Errorf("want 0 or more")
		}
		return err
	},
	"max-replica-lag":   func(o *Options, value string) error { return readDuration(&o.Limits.MaxReplicaLag, value) },
	"throttle-give-up":  func(o *Options, value string) error { return readDuration(&o.GiveUpAfter, value) },
	"max-slot-retained": func(o *Options, value string) error { return readSize(&o.Limits.MaxSlotRetained, value) },
	"max-wal-rate": func(o *Options, value string) error {
		return readSize(&o.Limits.MaxWALRate, strings.TrimSuffix(value, "/s"))
	},
	"disk-limit": func(o *Options, value string) error { return readSize(&o.Limits.DiskLimit, value) },
	"max-active": func(o *Options, value string) (err error) {
		if o.Limits.MaxActive, err = strconv.Atoi(value); err == nil && o.Limits.MaxActive < 0 {
			err = fmt.Errorf("cannot be negative")
		}
		return err
	},
	"max-change-log": func(o *Options, value string) error { return readSize(&o.MaxChangeLog, value) },
	"throttle-query": func(o *Options, value string) error { o.Limits.Query = value; return nil },
	"min-free-disk":  func(o *Options, value string) error { return readFree(&o.Limits, value) },
	"window":         func(o *Options, value string) error { return o.readWindows(&o.Window, value) },
	"swap-window":    func(o *Options, value string) error { return o.readWindows(&o.SwapWindow, value) },
}

// readDuration reads a time, such as 10s.
func readDuration(d *time.Duration, value string) (err error) {
	if *d, err = time.ParseDuration(value); err == nil && *d < 0 {
		err = fmt.Errorf("cannot be negative")
	}
	return err
}

// readSize reads a size, such as 20GB; empty stands for none.
func readSize(bytes *int64, value string) (err error) {
	if *bytes = 0; value == "" {
		return nil
	}
	*bytes, err = size.Parse(value)
	return err
}

// readFree reads a size, or a part of the disk.
func readFree(l *Limits, value string) (err error) {
	text, isPercent := strings.CutSuffix(value, "%")
	if !isPercent {
		l.MinFreePercent = 0
		return readSize(&l.MinFreeDisk, value)
	}
	l.MinFreeDisk = 0
	l.MinFreePercent, err = strconv.ParseFloat(text, 64)
	if err == nil && (l.MinFreePercent < 0 || l.MinFreePercent > 100) {
		err = fmt.Errorf("want a part of the disk, such as 15%%")
	}
	return err
}

// ReadSetting sets an option by the name of its flag and a value as it is typed, such as
// max-replica-lag and 10s. The names are those that Repack.Set takes. It returns *UsageError.
func (o *Options) ReadSetting(name, value string) error {
	read, ok := settings[name]
	if !ok {
		return &UsageError{fmt.Errorf("%s: want one of %s", name, settable())}
	}
	if err := read(o, value); err != nil {
		return &UsageError{fmt.Errorf("--%s %q: %w", name, value, err)}
	}
	return nil
}

// readWindows reads windows separated by semicolons; empty stands for none.
func (o *Options) readWindows(windows *[]string, value string) error {
	*windows = nil
	if strings.TrimSpace(value) != "" {
		*windows = strings.Split(value, ";")
	}
	read, err := o.withHours()
	*o = read
	return err
}

// settable lists the names of settings.
func settable() string {
	var names []string
	for name := range settings {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// with returns o with the options that were changed. A value that this version cannot read is
// left out, and named in unread.
func (o Options) with(set map[string]registry.Setting) (changed Options, unread []error) {
	for name, setting := range set {
		read, ok := settings[name]
		if !ok {
			unread = append(unread, fmt.Errorf("%s=%s: not an option that can be changed", name, setting.Value))
			continue
		}
		before := o
		if err := read(&o, setting.Value); err != nil {
			o = before
			unread = append(unread, fmt.Errorf("%s=%s: %w", name, setting.Value, err))
		}
	}
	return o, unread
}

// checkSettings returns *UsageError if an option cannot be changed, or not to that value.
func (o Options) checkSettings(set map[string]string) error {
	for name, value := range set {
		read, ok := settings[name]
		if !ok {
			return &UsageError{fmt.Errorf("%s cannot be changed while a run is at work; want one of %s", name, settable())}
		}
		if err := read(&o, value); err != nil {
			return &UsageError{fmt.Errorf("%s=%s: %w", name, value, err)}
		}
	}
	return nil
}
