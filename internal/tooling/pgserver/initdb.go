package pgserver

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// DefaultSettings returns what every server is started with unless Options say
// otherwise: durable across a crash of the server but not of the machine, which
// is what lets a test crash it, and ready for prepared transactions and logical
// decoding.
func DefaultSettings() map[string]string {
	return map[string]string{
		"fsync":                     "off",
		"max_connections":           "200",
		"shared_buffers":            "128MB",
		"wal_level":                 "logical",
		"max_prepared_transactions": "20",
		"autovacuum":                "on",
		"timezone":                  "UTC",
		"log_timezone":              "UTC",
	}
}

// initdb makes the data directory and appends the settings to its
// postgresql.conf: there, and unlike on the command line, ALTER SYSTEM can
// change them.
func (s *Server) initdb(ctx context.Context) error {
	if s.opts.Cache == "" {
		if err := s.runInitdb(ctx); err != nil {
			return err
		}
		return s.writeSettings()
	}
	copied, err := s.copyInitialised()
	if err != nil {
		return fmt.Errorf("copy a data directory: %w", err)
	}
	if !copied {
		if err := s.runInitdb(ctx); err != nil {
			return err
		}
		if err := s.keepInitialised(); err != nil {
			return fmt.Errorf("keep a data directory: %w", err)
		}
	}
	return s.writeSettings()
}

func (s *Server) writeSettings() error {
	settings := DefaultSettings()
	maps.Copy(settings, s.opts.Settings)
	settings["listen_addresses"] = ""
	settings["port"] = port
	settings["unix_socket_directories"] = s.dir

	var conf strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&conf, "%s = '%s'\n", name, escapeSetting(settings[name]))
	}
	return appendFile(filepath.Join(s.dataDir(), "postgresql.conf"), conf.String())
}

// escapeSetting quotes as the configuration file wants it.
//
// https://www.postgresql.org/docs/current/config-setting.html
func escapeSetting(value string) string {
	return strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(value)
}

func appendFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("append settings: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return fmt.Errorf("append settings: %w", err)
	}
	return f.Close()
}
