package main

import (
	bytesOf "bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/repack"
)

// eventWithin limits how long an event may take to be passed on.
const eventWithin = 10 * time.Second

func eventFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "on-event", Usage: "shell `COMMAND` that is called for each event of a job, with the event as JSON on its standard input; it may take ten seconds, and the run does not wait for it"},
		&cli.StringFlag{Name: "notify-url", Usage: "`URL` to which each event of a job is sent, as JSON, with POST"},
	}
}

// onEvent returns what passes on events, or nil if nobody wants them.
func onEvent(c *cli.Context) (func(context.Context, repack.Event) error, error) {
	command, to := c.String("on-event"), c.String("notify-url")
	if u, err := url.Parse(to); to != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		return nil, &repack.UsageError{Err: errors.New("--notify-url: want a URL, such as https://example.com/hook")}
	}
	if command == "" && to == "" {
		return nil, nil
	}
	return func(ctx context.Context, event repack.Event) error {
		text, err := json.Marshal(event)
		if err != nil {
			return err
		}
		var errs []error
		if command != "" {
			errs = append(errs, callCommand(ctx, command, text))
		}
		if to != "" {
			errs = append(errs, post(ctx, to, text))
		}
		return errors.Join(errs...)
	}, nil
}

// callCommand passes text to a shell command.
func callCommand(ctx context.Context, command string, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, eventWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Stdin = bytesOf.NewReader(append(text, '\n'))
	cmd.WaitDelay = time.Second // children of the shell may keep its output open
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("--on-event has not ended within %s", eventWithin)
	default:
		return fmt.Errorf("--on-event: %w: %s", err, strings.TrimSpace(string(out)))
	}
}

// post sends text to a URL. The URL is not part of its errors, because it may contain a secret.
func post(ctx context.Context, to string, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, eventWithin)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytesOf.NewReader(text))
	if err != nil {
		return errors.New("--notify-url is not a URL")
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return fmt.Errorf("--notify-url: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20))
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("--notify-url: the answer was %s", response.Status)
	}
	return nil
}
