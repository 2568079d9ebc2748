package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// silence is how long a watched POP may say nothing, not even a heartbeat.
	silence = 3 * heartbeatEvery
	// maxEvent bounds what a server can make us hold of one event.
	maxEvent = 4 << 20
)

// Watch calls each for every event behind from, over one connection. It returns
// nil after an event "end", else why the stream broke off: each's error, ctx's,
// a refusal, or ErrUnreachable. Whoever goes on does so from the ID of the last
// event that each was given.
func (c *Client) Watch(ctx context.Context, from string, f WatchFilter, each func(Event) error) error {
	q := url.Values{}
	if from != "" {
		q.Set("from", from)
	}
	if len(f.Kinds) > 0 {
		q.Set("kind", strings.Join(f.Kinds, ","))
	}
	if f.App != "" {
		q.Set("app", f.App)
	}
	caller := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(clientTimeout, func() {
		cancel(remoteError{ErrUnreachable, fmt.Sprintf("%s is silent", c.Addr())})
	})
	defer patience.Stop()
	broken := func(err error) error {
		switch cause := context.Cause(ctx); {
		case caller.Err() != nil:
			return caller.Err()
		case errors.Is(cause, ErrUnreachable):
			return cause
		}
		return c.unreachable(caller, err)
	}

	req, err := c.request(ctx, http.MethodGet, "/api/v1/watch", q, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/x-ndjson")
	unhurried := c.http
	unhurried.Timeout = 0
	resp, err := unhurried.Do(req)
	if err != nil {
		return broken(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		if err != nil {
			return broken(err)
		}
		return c.refused(resp.StatusCode, body)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEvent)
	for patience.Reset(silence); lines.Scan(); patience.Reset(silence) {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Type == "" {
			return fmt.Errorf("%s does not stream events as edgeproxy's admin API does: is this its api_addr?", c.Addr())
		}
		if err := each(e); err != nil || e.Type == "end" {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return broken(err)
	}
	return broken(io.ErrUnexpectedEOF)
}
