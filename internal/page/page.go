// Package page serves jobs over HTTP: a page for people, JSON, and metrics for Prometheus.
package page

import (
	"context"
	"crypto/subtle"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/repack-go/repack/internal/metrics"
	"github.com/repack-go/repack/repack"
)

// Options say what is served, and to whom.
type Options struct {
	// Listen is the address, such as 127.0.0.1:8432. One that is not loopback needs Token.
	Listen string
	// Token is asked for by everything that changes something, and by everything if Listen is not
	// loopback.
	Token string
	// Control makes the page pause, resume, swap and stop jobs. It needs Token.
	Control bool
	// Open returns what works on a table, or on all tables if the table is empty.
	Open func(table string) (*repack.Repack, error)
	Log  *slog.Logger
	// Ready is called with the address when the page can be asked for. It may be nil.
	Ready func(address string)
}

// Check returns *repack.UsageError if the options would serve to whom they must not.
func (o Options) Check() error {
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return &repack.UsageError{Err: fmt.Errorf("address to listen on: %w; want HOST:PORT, such as 127.0.0.1:8432", err)}
	}
	if o.Control && o.Token == "" {
		return &repack.UsageError{Err: errors.New("control needs a token: set REPACK_SERVE_TOKEN, or give --token-file")}
	}
	if !loopback(host) && o.Token == "" {
		return &repack.UsageError{Err: fmt.Errorf("%s can be reached from other machines: that needs a token; set REPACK_SERVE_TOKEN, or give --token-file", o.Listen)}
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

const (
	readTimeout  = 10 * time.Second
	writeTimeout = 30 * time.Second
	closing      = 5 * time.Second
)

// Serve serves until ctx ends.
func Serve(ctx context.Context, o Options) error {
	if err := o.Check(); err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", o.Listen, err)
	}
	server := &http.Server{Handler: o.handler(), ReadTimeout: readTimeout, WriteTimeout: writeTimeout, ReadHeaderTimeout: readTimeout}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	if o.Ready != nil {
		o.Ready(listener.Addr().String())
	}
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", o.Listen, err)
	case <-ctx.Done():
	}
	closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	return errors.Join(ctx.Err(), server.Shutdown(closeCtx))
}

func (o Options) handler() http.Handler {
	all := func(ctx context.Context) ([]repack.Status, error) {
		r, err := o.Open("")
		if err != nil {
			return nil, err
		}
		return r.Status(ctx)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.Handle("GET /metrics", o.guarded(promhttp.HandlerFor(metrics.New(all, o.Log), promhttp.HandlerOpts{})))
	mux.Handle("GET /api/status", o.guarded(o.json(all)))
	mux.Handle("GET /{$}", o.guarded(o.list(all)))
	mux.Handle("GET /job", o.guarded(http.HandlerFunc(o.job)))
	if o.Control {
		mux.HandleFunc("POST /control", o.control)
	}
	return headers(mux)
}

// headers keep browsers from running anything, or showing the page within another one.
func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// guarded asks for the token if the address can be reached from other machines.
func (o Options) guarded(next http.Handler) http.Handler {
	host, _, _ := net.SplitHostPort(o.Listen)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !loopback(host) && !o.allowed(r) {
			unauthorized(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// allowed reports whether a request has the token: as a bearer token, or as the password of basic
// authentication, which browsers ask for.
func (o Options) allowed(r *http.Request) bool {
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		_, token, _ = r.BasicAuth()
	}
	return o.Token != "" && subtle.ConstantTimeCompare([]byte(token), []byte(o.Token)) == 1
}

func unauthorized(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Basic realm="repack"`)
	http.Error(w, "a token is needed", http.StatusUnauthorized)
}

func (o Options) fail(w http.ResponseWriter, err error) {
	o.Log.Warn("page not served", "error", err)
	http.Error(w, err.Error(), http.StatusBadGateway)
}

func (o Options) json(source metrics.Source) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list, err := source(r.Context())
		if err != nil {
			o.fail(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(list) // the client has left
	})
}

//go:embed page.html
var text string

var pages = template.Must(template.New("page").Funcs(template.FuncMap{
	"percent": func(s repack.Status) int64 {
		if s.RowsTotal <= 0 || s.FinishedAt != nil {
			return 100
		}
		return min(100*s.RowsCopied/s.RowsTotal, 100)
	},
	"time": func(t time.Time) string { return t.Local().Format(time.DateTime) },
	"eta": func(s repack.Status) string {
		if s.ETASeconds == nil {
			return ""
		}
		return (time.Duration(*s.ETASeconds) * time.Second).String()
	},
	"took": func(s repack.StageRun) string {
		if s.Ended == nil {
			return ""
		}
		return s.Ended.Sub(s.Began).Round(time.Millisecond).String()
	},
}).Parse(text))

// shown is what the template shows.
type shown struct {
	Jobs    []repack.Status
	Job     *repack.Status
	History []repack.StageRun
	Control bool
	Now     time.Time
}

func (o Options) show(w http.ResponseWriter, s shown) {
	s.Control, s.Now = o.Control, time.Now()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := pages.Execute(w, s); err != nil {
		o.Log.Warn("page not written", "error", err)
	}
}

func (o Options) list(source metrics.Source) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list, err := source(r.Context())
		if err != nil {
			o.fail(w, err)
			return
		}
		o.show(w, shown{Jobs: list})
	})
}

// job shows the latest job of a table, and when its stages were at work.
func (o Options) job(w http.ResponseWriter, r *http.Request) {
	work, err := o.Open(r.URL.Query().Get("table"))
	if err != nil {
		o.fail(w, err)
		return
	}
	list, err := work.Status(r.Context())
	if errors.Is(err, repack.ErrNoJob) || err == nil && len(list) == 0 {
		http.NotFound(w, r)
		return
	}
	var history []repack.StageRun
	if err == nil {
		history, err = work.History(r.Context())
	}
	if err != nil {
		o.fail(w, err)
		return
	}
	o.show(w, shown{Job: &list[0], History: history})
}

// control does what a form of the page, or a program, asks for.
func (o Options) control(w http.ResponseWriter, r *http.Request) {
	if !o.allowed(r) {
		unauthorized(w)
		return
	}
	// A browser sends the token by itself (basic authentication), also from forms of other sites.
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		http.Error(w, "the form is of another site", http.StatusForbidden)
		return
	}
	table := r.FormValue("table")
	work, err := o.Open(table)
	if err != nil {
		o.fail(w, err)
		return
	}
	switch r.FormValue("do") {
	case "pause":
		err = work.Pause(r.Context(), r.FormValue("reason"), false)
	case "resume":
		err = work.Resume(r.Context())
	case "swap":
		err = work.AllowSwap(r.Context(), time.Time{})
	case "stop":
		err = work.StopRun(r.Context())
	default:
		http.Error(w, "do must be pause, resume, swap or stop", http.StatusBadRequest)
		return
	}
	if errors.Is(err, repack.ErrNoJob) {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if err != nil {
		o.fail(w, err)
		return
	}
	o.Log.Info("controlled", "table", table, "do", r.FormValue("do"))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
