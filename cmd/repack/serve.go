package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/internal/metrics"
	"github.com/repack-go/repack/internal/page"
	"github.com/repack-go/repack/repack"
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "serve a page that shows the jobs, /api/status, /metrics for Prometheus and /healthz, until interrupted",
		Flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:8432", Usage: "`ADDRESS`; one that is not loopback needs a token"},
			&cli.BoolFlag{Name: "allow-control", Usage: "let the page pause, resume, swap and stop jobs; needs a token"},
			&cli.StringFlag{Name: "token-file", Usage: "`FILE` with the token (default: the variable REPACK_SERVE_TOKEN)"},
		}, connectionFlags()),
		Action: func(c *cli.Context) error {
			config, o, err := options(c)
			if err != nil {
				return err
			}
			token, err := serveToken(c.String("token-file"))
			if err != nil {
				return err
			}
			err = page.Serve(c.Context, page.Options{
				Listen: c.String("listen"), Token: token, Control: c.Bool("allow-control"), Open: opener(config, o), Log: o.Logger,
				Ready: func(address string) { o.Logger.InfoContext(c.Context, "serving", "address", "http://"+address) },
			})
			if c.Context.Err() != nil {
				return errWatched // an interrupt is the normal end
			}
			return err
		},
	}
}

// serveToken reads the token from a file or from the environment.
func serveToken(file string) (string, error) {
	if file == "" {
		return os.Getenv("REPACK_SERVE_TOKEN"), nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", usagef("--token-file: %v", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", usagef("--token-file: %s is empty", file)
	}
	return token, nil
}

// opener returns what works on a table, or on all.
func opener(config *pgx.ConnConfig, o repack.Options) func(table string) (*repack.Repack, error) {
	return func(table string) (*repack.Repack, error) {
		of := o
		of.Table, of.Hooks = table, repack.Hooks{}
		return repack.New(config, of)
	}
}

// metricsFlags show a run to Prometheus.
func metricsFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "metrics-listen", Usage: "serve /metrics for Prometheus on this `ADDRESS` while the run is at work, such as 127.0.0.1:9188; one that is not loopback needs REPACK_SERVE_TOKEN"},
		&cli.StringFlag{Name: "metrics-textfile", Usage: "write metrics to this `FILE` every few seconds and at the end, for the textfile collector of node_exporter"},
	}
}

// textfileEvery is how often the file of metrics is written.
const textfileEvery = 5 * time.Second

// showMetrics does what metricsFlags say, until stop is called.
func showMetrics(c *cli.Context, config *pgx.ConnConfig, o repack.Options) (stop func(), err error) {
	ctx, cancel := context.WithCancel(c.Context)
	var ends []func()
	stop = func() {
		cancel()
		for _, end := range ends {
			end()
		}
	}
	if address := c.String("metrics-listen"); address != "" {
		served := page.Options{Listen: address, Token: os.Getenv("REPACK_SERVE_TOKEN"), Open: opener(config, o), Log: o.Logger}
		if err := served.Check(); err != nil {
			cancel()
			return nil, err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := page.Serve(ctx, served); err != nil && !errors.Is(err, context.Canceled) {
				o.Logger.Warn("metrics not served", "error", err)
			}
		}()
		ends = append(ends, func() { <-done })
	}
	if path := c.String("metrics-textfile"); path != "" {
		ends = append(ends, writeTextfile(ctx, path, config, o))
	}
	return stop, nil
}

// writeTextfile writes metrics to a file until ctx ends. The function it returns writes it for the
// last time.
func writeTextfile(ctx context.Context, path string, config *pgx.ConnConfig, o repack.Options) (end func()) {
	registry := metrics.New(func(ctx context.Context) ([]repack.Status, error) {
		r, err := opener(config, o)("")
		if err != nil {
			return nil, err
		}
		return r.Status(ctx)
	}, o.Logger)
	write := func() {
		if err := prometheus.WriteToTextfile(path, registry); err != nil {
			o.Logger.Warn("metrics not written", "error", err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(textfileEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				write()
			}
		}
	}()
	return func() { <-done; write() }
}
