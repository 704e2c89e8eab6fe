//go:build !unix

package pgserver

func (s *Server) claim() error { return nil }

// Sweep does nothing: only Unix tells whose process has died.
func Sweep(string) error { return nil }
