package clustertests

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// follower is a program that watches a POP and keeps what it is told.
type follower struct {
	p      *pop
	kinds  string
	id     string
	states map[string]json.RawMessage // kind/key
	seen   map[string]bool            // ids of changes since the last reset
	resets []string                   // why
	ready  bool
	lagged uint64
	over   string // why the stream ended
}

func newFollower(p *pop, kinds string) *follower {
	return &follower{p: p, kinds: kinds, states: map[string]json.RawMessage{}, seen: map[string]bool{}}
}

// open asks for a stream. The caller closes its body.
func (f *follower) open(ctx context.Context, header ...string) (*http.Response, error) {
	q := url.Values{}
	if f.id != "" {
		q.Set("from", f.id)
	}
	if f.kinds != "" {
		q.Set("kind", f.kinds)
	}
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+local(f.p.apiAddr())+"/api/v1/watch?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	streams := &http.Client{Transport: web.Transport}
	return streams.Do(req)
}

// follow reads until ctx cuts the connection, or done is content.
func (f *follower) follow(ctx context.Context, done func() bool) error {
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	resp, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := readAll(resp.Body)
		return fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	return f.read(resp.Body, done)
}

func (f *follower) read(from io.Reader, done func() bool) error {
	f.ready, f.over = false, ""
	lines := bufio.NewReader(from)
	for !done() {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err // half a line is none
		}
		var e api.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		if err := f.take(e); err != nil {
			return err
		}
	}
	return nil
}

// take believes an event, and says what it must not be.
func (f *follower) take(e api.Event) error {
	name := e.Kind + "/" + e.Key
	switch e.Type {
	case "reset":
		f.states, f.seen = map[string]json.RawMessage{}, map[string]bool{}
		f.resets = append(f.resets, e.Reason)
	case "ready":
		f.ready = true
	case "lag":
		f.lagged += e.Missed
	case "end":
		f.over = e.Reason
	case "change", "delete":
		if f.seen[e.ID] {
			return fmt.Errorf("%s %s comes twice, with id %s", e.Type, name, e.ID)
		}
		f.seen[e.ID] = true
		if e.Type == "delete" {
			delete(f.states, name)
		} else {
			f.states[name] = e.State
		}
	case "heartbeat":
	default:
		return fmt.Errorf("event of type %q", e.Type)
	}
	f.id = e.ID
	return nil
}

// weights are what it knows of backends.
func (f *follower) weights() map[string]int64 {
	all := map[string]int64{}
	for name, state := range f.states {
		if id, is := strings.CutPrefix(name, "backend/"); is {
			var b api.BackendState
			_ = json.Unmarshal(state, &b) // then the weight is 0
			all[id] = b.Weight
		}
	}
	return all
}

// catchUp follows until the stream has brought everything there is.
func (f *follower) catchUp(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := f.follow(ctx, func() bool { return f.ready }); err != nil {
		t.Fatal(err)
	}
}

// tableWeights are those in the POP's file.
func tableWeights(t testing.TB, p *pop) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	for line := range strings.Lines(p.sql(t, "SELECT id, weight FROM backends")) {
		id, text, _ := strings.Cut(strings.TrimSpace(line), "|")
		all[id], _ = strconv.ParseInt(text, 10, 64)
	}
	return all
}

// TestWatcherCutAndResumed: a watcher whose connection is cut 30 times (100 with
// EDGEPROXY_TEST=long) under 50 writes a second, made by sqlite3 on two POPs,
// misses no key's last state and sees nothing twice, all after the one reset with
// which it began.
func TestWatcherCutAndResumed(t *testing.T) {
	t.Parallel()
	cuts := often(30, 100)
	m := newMesh(t, 2, unchecked)
	random := pick(t)
	ctx, stop := context.WithCancel(t.Context())
	writers := []*sqlSession{openSQL(t, m.pops[0].db), openSQL(t, m.pops[1].db)}
	var writing sync.WaitGroup
	var writes atomic.Int64
	deletes := 0
	writing.Go(func() {
		ticker := time.NewTicker(20 * time.Millisecond) // 50 a second
		defer ticker.Stop()
		for ; ctx.Err() == nil; writes.Add(1) {
			id := fmt.Sprintf("b%02d", random.IntN(20))
			statement := fmt.Sprintf("INSERT INTO backends VALUES('%s','shop','sa','10.0.0.1',80,1,%d,1,0,0) ON CONFLICT(id) DO UPDATE SET weight=excluded.weight", id, writes.Load()+1)
			if random.IntN(4) == 0 {
				statement = fmt.Sprintf("DELETE FROM backends WHERE id='%s'", id)
				deletes++
			}
			writers[random.IntN(2)].do(t, statement)
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
	})
	f := newFollower(m.pops[1], "backend")
	for i, began := 0, time.Now(); i < cuts || writes.Load() < int64(cuts/2) && time.Since(began) < soon; i++ {
		reading, cut := context.WithTimeout(t.Context(), time.Duration(10+i%40)*time.Millisecond)
		err := f.follow(reading, func() bool { return false })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cut()
	}
	stop()
	writing.Wait()
	settle(t, converged, m.pops...)
	eventually(t, converged, func() error {
		f.catchUp(t)
		if got, want := f.weights(), tableWeights(t, m.pops[1]); !maps.Equal(got, want) {
			return fmt.Errorf("it knows %v, the table holds %v", got, want)
		}
		return nil
	})
	if len(f.resets) != 1 || writes.Load() < int64(cuts/2) {
		t.Errorf("resets %q, want one; %d writes, of them %d deletes", f.resets, writes.Load(), deletes)
	}
	t.Logf("%d writes, of them %d deletes; %d changes came", writes.Load(), deletes, len(f.seen))
}

// TestWatcherOfAnotherLife: a stream ends in order when the POP drains; an id of
// an earlier life, or of another POP, brings everything anew, and why.
func TestWatcherOfAnotherLife(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa", "us"))
	f := newFollower(p, "")
	eventually(t, soon, func() error { // a POP is ready before it has looked who is there
		f.catchUp(t)
		for _, key := range []string{"backend/sa-1", "backend/us-1", "member/" + p.Node} {
			if f.states[key] == nil {
				return fmt.Errorf("it is ready without %s: %v", key, sorted(f.states))
			}
		}
		return nil
	})
	p.sql(t, insert(at("dead", "sa", refusing(t))))
	eventually(t, soon, func() error {
		f.catchUp(t)
		var h api.HealthState
		if err := json.Unmarshal(f.states["health/dead"], &h); err != nil || !h.Down || len(h.Checks) != 1 || h.Checks[0].POP != p.Node || h.Checks[0].Why == "" {
			return fmt.Errorf("of a backend that is down it knows %s", f.states["health/dead"])
		}
		return nil
	})
	ended := f.untilOver(t, p)
	p.stop(t)
	if err := <-ended; err != nil || !strings.Contains(f.over, "drains") {
		t.Errorf("the stream ended with %v, %q", err, f.over)
	}
	p.sql(t, "DELETE FROM backends WHERE id='us-1'")
	p.start(t)
	f.catchUp(t)
	if len(f.resets) != 2 || !strings.Contains(f.resets[1], "another life") || f.states["backend/us-1"] != nil || f.states["backend/sa-1"] == nil {
		t.Errorf("after a restart: resets %q, knows %v", f.resets, sorted(f.states))
	}
	f.id = "us-0badcafe" + f.id[strings.Index(f.id, "/"):]
	f.catchUp(t)
	if len(f.resets) != 3 || !strings.Contains(f.resets[2], "another POP") {
		t.Errorf("with an id of another POP: resets %q", f.resets)
	}
	for _, bad := range []string{"from=x", "from=a/1/01", "kind=nothing", "form=now"} {
		if a := p.ask(t, "GET", "/api/v1/watch?"+bad, ""); a.code != 400 {
			t.Errorf("%s: %+v, want 400", bad, a)
		}
	}
	if a := p.ask(t, "GET", "/api/v1/watch", "", "Sec-Fetch-Site: cross-site"); a.code != 403 {
		t.Errorf("for a page of another site: %+v, want 403", a)
	}
}

// untilOver follows the POP, which counts one watcher, until it says that the
// stream is over.
func (f *follower) untilOver(t *testing.T, p *pop) (ended <-chan error) {
	t.Helper()
	end := make(chan error, 1)
	go func() { end <- f.follow(t.Context(), func() bool { return f.over != "" }) }()
	eventually(t, soon, func() error {
		if n := p.metric(t, "edgeproxy_watchers"); n != 1 {
			return fmt.Errorf("%v watchers", n)
		}
		return nil
	})
	return end
}

// TestWatcherOfUpgrade: a stream ends in order when a new process takes the POP
// over, which then brings everything anew.
func TestWatcherOfUpgrade(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"), unchecked)
	f := newFollower(p, "")
	f.catchUp(t)
	ended := f.untilOver(t, p)
	p.upgrade(t)
	if err := <-ended; err != nil || !strings.Contains(f.over, "new process") {
		t.Errorf("the stream ended with %v, %q", err, f.over)
	}
	f.catchUp(t)
	if len(f.resets) != 2 || !strings.Contains(f.resets[1], "another life") || f.states["backend/sa-1"] == nil {
		t.Errorf("after an upgrade: resets %q, knows %v", f.resets, sorted(f.states))
	}
	if a, err := p.asksSQL("SELECT count(*) FROM backends"); err != nil || !strings.Contains(a.body, "[[1]]") {
		t.Errorf("SQL after an upgrade: %+v, %v", a, err)
	}
}

// TestWatchAsBrowser: server-sent events, and Last-Event-ID goes on.
func TestWatchAsBrowser(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"), unchecked)
	f := newFollower(p, "backend")
	f.catchUp(t)
	last := f.id
	p.sql(t, "UPDATE backends SET weight=7")
	p.sql(t, "INSERT INTO backends SELECT 'sa-2',app,region,wg_ip,port,1,9,1,0,0 FROM backends")
	eventually(t, soon, func() error {
		f.catchUp(t)
		if len(f.states) != 2 {
			return fmt.Errorf("knows %v", sorted(f.states))
		}
		return nil
	})
	f.id = ""
	resp, err := f.open(t.Context(), "Accept: text/event-stream", "Last-Event-ID: "+last)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type %q", got)
	}
	var text strings.Builder
	lines := bufio.NewReader(resp.Body)
	for !strings.HasSuffix(text.String(), "\n\n") || !strings.Contains(text.String(), "event: ready") {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("%v after %q", err, text.String())
		}
		text.WriteString(line)
	}
	events := strings.Split(strings.TrimSpace(text.String()), "\n\n")
	if len(events) != 4 || events[0] != "retry: 1000" || strings.Contains(text.String(), "reset") {
		t.Fatalf("events %q", events)
	}
	for i, want := range []string{`"weight":7`, `"sa-2"`, `"ready"`} {
		fields := strings.Split(events[i+1], "\n")
		if len(fields) != 3 || !strings.HasPrefix(fields[0], "id: "+p.Node+"/") || !strings.HasPrefix(fields[1], "event: ") ||
			!strings.HasPrefix(fields[2], "data: {") || !strings.Contains(fields[2], want) {
			t.Errorf("event %q, want one of %s", events[i+1], want)
		}
	}
}

// TestWatchCommand: it comes back after the POP was away, says so, and ends
// with 0 when told to.
func TestWatchCommand(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"), unchecked)
	cmd := p.command("watch", "--kind", "backend,service")
	out, errs := &logBuffer{}, &logBuffer{}
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	says := func(l *logBuffer, words ...string) {
		t.Helper()
		eventually(t, soon, func() error { return l.says(words...) })
	}
	says(out, "+ backend sa-1", "state=up", "weight=1")
	says(out, "now what changes")
	p.sql(t, "UPDATE backends SET weight=5, healthy=0")
	says(out, "~ backend sa-1", "weight 1 -> 5", "state up -> unhealthy")
	p.stop(t)
	says(out, "the end", "drains")
	says(errs, "edgeproxy: ", "trying again")
	p.start(t)
	says(out, "everything anew", "another life")
	p.sql(t, "DELETE FROM backends")
	says(out, "- backend sa-1")
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("after Ctrl-C: %v, want 0", err)
	}
}
