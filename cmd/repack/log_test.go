package main

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLogLines(t *testing.T) {
	t.Parallel()
	for want, handler := range map[string]func(io.Writer) slog.Handler{
		`msg=m table=app.t index="app.\"order\"" odd="\"A \"\"b\"" said="a \"b\"" took=1.5s` + "\n": func(w io.Writer) slog.Handler {
			return slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: bare})
		},
		`"msg":"m","table":"\"app\".\"t\"","index":"\"app\".\"order\"","odd":"\"A \"\"b\"","said":"a \"b\"","took_seconds":1.5}` + "\n": func(w io.Writer) slog.Handler {
			return slog.NewJSONHandler(w, &slog.HandlerOptions{ReplaceAttr: inSeconds})
		},
	} {
		var out strings.Builder
		slog.New(handler(&out)).Info("m", "table", `"app"."t"`, "index", `"app"."order"`, "odd", `"A ""b"`, "said", `a "b"`, "took", 1500*time.Millisecond)
		if !strings.HasSuffix(out.String(), want) {
			t.Errorf("%s, want …%s", out.String(), want)
		}
	}
}
