package page

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/repack-go/repack/internal/metrics"
	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const secret = "the token"

// given serves a database with a job that has stopped before its swap.
func given(t *testing.T, listen string, control bool) (*pgtest.Database, *httptest.Server) {
	t.Helper()
	db := pgtest.New(t)
	db.Exec(t, `CREATE TABLE "<script>" (id int PRIMARY KEY); INSERT INTO "<script>" SELECT generate_series(1, 100)`)
	open := func(table string) (*repack.Repack, error) {
		return repack.New(db.Config(t), repack.Options{Table: table, Until: repack.Backfill})
	}
	r, err := open(`"<script>"`)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	o := Options{Listen: listen, Control: control, Token: secret, Open: open, Log: slog.New(slog.DiscardHandler)}
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(o.handler())
	t.Cleanup(server.Close)
	return db, server
}

// ask sends a request, with a token unless it is empty, and returns the answer.
func ask(t *testing.T, method, address, token string, form url.Values) (int, string, http.Header) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body), response.Header
}

func TestPage(t *testing.T) {
	t.Parallel()
	db, server := given(t, "127.0.0.1:0", true)
	code, body, header := ask(t, http.MethodGet, server.URL+"/", "", nil)
	if code != http.StatusOK || strings.Contains(body, "<script") || !strings.Contains(body, "&lt;script&gt;") || !strings.Contains(body, "100%") || !strings.Contains(body, "pause") {
		t.Errorf("page %d:\n%s", code, body)
	}
	if policy := header.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") {
		t.Errorf("policy %q", policy)
	}
	if code, body, _ := ask(t, http.MethodGet, server.URL+"/job?table="+url.QueryEscape(`"<script>"`), "", nil); code != http.StatusOK || !strings.Contains(body, "setup") {
		t.Errorf("page of a job %d:\n%s", code, body)
	}
	if code, _, _ := ask(t, http.MethodGet, server.URL+"/job?table=nothing", "", nil); code != http.StatusNotFound {
		t.Errorf("page of no job: %d", code)
	}
	if code, body, _ := ask(t, http.MethodGet, server.URL+"/api/status", "", nil); code != http.StatusOK || !strings.Contains(body, `"state": "stopped"`) {
		t.Errorf("status %d: %s", code, body)
	}
	if code, body, _ := ask(t, http.MethodGet, server.URL+"/healthz", "", nil); code != http.StatusOK || body != "ok\n" {
		t.Errorf("health %d: %s", code, body)
	}

	pause := url.Values{"table": {`"<script>"`}, "do": {"pause"}, "reason": {"deploy"}}
	for _, token := range []string{"", "another"} {
		if code, _, _ := ask(t, http.MethodPost, server.URL+"/control", token, pause); code != http.StatusUnauthorized {
			t.Errorf("control with token %q: %d", token, code)
		}
	}
	if code, _, _ := ask(t, http.MethodPost, server.URL+"/control", secret, pause); code != http.StatusSeeOther {
		t.Errorf("control: %d", code)
	}
	if _, body, _ := ask(t, http.MethodGet, server.URL+"/", "", nil); !strings.Contains(body, "(deploy)") || !strings.Contains(body, "resume") {
		t.Errorf("page of a paused job:\n%s", body)
	}
	if code, _, _ := ask(t, http.MethodPost, server.URL+"/control", secret, url.Values{"table": {"nothing"}, "do": {"stop"}}); code != http.StatusNotFound {
		t.Errorf("control of no job: %d", code)
	}
	if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM repack_registry.control`); n != 1 {
		t.Errorf("%d commands are recorded", n)
	}
}

// TestBeyondLoopback asks for the token everywhere but for health, and is refused without one.
func TestBeyondLoopback(t *testing.T) {
	t.Parallel()
	_, server := given(t, "0.0.0.0:0", false)
	for _, path := range []string{"/", "/api/status", "/metrics", "/job?table=x"} {
		if code, _, _ := ask(t, http.MethodGet, server.URL+path, "", nil); code != http.StatusUnauthorized {
			t.Errorf("%s without token: %d", path, code)
		}
	}
	if code, _, _ := ask(t, http.MethodGet, server.URL+"/", secret, nil); code != http.StatusOK {
		t.Errorf("page with token: %d", code)
	}
	if code, _, _ := ask(t, http.MethodPost, server.URL+"/control", secret, url.Values{"do": {"pause"}}); code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
		t.Errorf("control that is not allowed: %d", code)
	}
	var usage *repack.UsageError
	for _, o := range []Options{{Listen: "0.0.0.0:8432"}, {Listen: "8432"}, {Listen: "127.0.0.1:0", Control: true}, {Listen: ":80"}} {
		if err := o.Check(); !errors.As(err, &usage) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestMetrics has Prometheus's own linter look at the metrics.
func TestMetrics(t *testing.T) {
	t.Parallel()
	_, server := given(t, "127.0.0.1:0", false)
	code, body, _ := ask(t, http.MethodGet, server.URL+"/metrics", "", nil)
	if code != http.StatusOK || !strings.Contains(body, `repack_rows_copied_total{job="1",table="\"public\".\"<script>\""} 100`) || !strings.Contains(body, "repack_up 1") {
		t.Errorf("metrics %d:\n%s", code, body)
	}
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("linter: %v, %v", problems, err)
	}
	for line := range strings.SplitSeq(body, "\n") {
		if name, isHelp := strings.CutPrefix(line, "# HELP "); isHelp {
			if name, _, _ = strings.Cut(name, " "); !slices.Contains(metrics.Names(), name) {
				t.Errorf("metric %s is not in the list of names", name)
			}
		}
	}
}

// TestServeEnds serves until the context ends.
func TestServeEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- Serve(ctx, Options{Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Ready: func(address string) { ready <- address }})
	}()
	if code, _, _ := ask(t, http.MethodGet, "http://"+<-ready+"/healthz", "", nil); code != http.StatusOK {
		t.Errorf("health: %d", code)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("serve: %v", err)
	}
}

// TestDashboard makes sure that the dashboard names only metrics that there are.
func TestDashboard(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(text) {
		t.Fatal("the dashboard is no JSON")
	}
	names := regexp.MustCompile(`repack_[a-z_]+`).FindAllString(string(text), -1)
	for _, name := range names {
		if !slices.Contains(metrics.Names(), name) {
			t.Errorf("the dashboard names %s", name)
		}
	}
	if len(names) < 8 {
		t.Errorf("the dashboard names %v", names)
	}
}
