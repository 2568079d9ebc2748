package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/rs/zerolog"
)

// post sends a body to a POP's API.
func post(t testing.TB, n *Node, path, body string) (code int, text string) {
	t.Helper()
	resp, err := http.Post("http://"+n.Addrs().API+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

// FuzzRegister: whatever is sent, the POP answers as HTTP has it, and never has
// a row that cannot be read, nor one of which half is missing.
func FuzzRegister(f *testing.F) {
	for _, seed := range []string{
		`{"id":"a","app":"web","region":"sa","ip":"10.0.0.1","port":80}`, `{"id":"a","app":"web","region":"sa","addr":"[::ffff:10.0.0.1]:80","weight":5,"hard_limit":1,"country":"br"}`,
		`{"id":"a","app":"web","region":"sa","ip":"127.0.0.1","port":80,"failing":"x"}`, `{"id":"\ud800","app":"web","region":"sa","ip":"fe80::1%eth0","port":80}`,
		`{"id":".","region":"sa","ip":"10.0.0.1","port":80}`, `{"id":null,"port":1e400}`, `{"failing":"no\u0000"}`, ``, `[]`, `{"id":"a","health_check":"","proxy_protocol":"v2","app":"","region":"us","ip":"10.1.1.1","port":65535}`,
	} {
		f.Add(seed, "a", `{"failing":"down"}`)
	}
	n := startLogging(f, zerolog.Nop(), usualPatience)
	f.Fuzz(func(t *testing.T, body, id, beat string) {
		code, text := post(t, n, "/api/v1/register", body)
		if code >= 500 || code != 201 && !json.Valid([]byte(text)) {
			t.Fatalf("%d %s", code, text)
		}
		if code, text := post(t, n, "/api/v1/heartbeat/"+fmt.Sprintf("%x", id), beat); code >= 500 {
			t.Fatalf("heartbeat: %d %s", code, text)
		}
		if code == 201 {
			if _, text = post(t, n, "/api/v1/heartbeat/a", beat); text == "" {
				t.Fatal("a heartbeat without an answer")
			}
		}
		img, err := n.store().Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		there := map[any]bool{}
		for _, row := range img.Backends {
			b, err := mesh.ParseBackend(row)
			if err != nil || trap(b.Addr.Addr()) != "" {
				t.Fatalf("row %v: %v", row, err)
			}
			there[row[0]] = true
		}
		for _, row := range img.Registrations {
			if _, _, err := mesh.ParseRegistration(row); err != nil || !there[row[0]] {
				t.Fatalf("registration %v: %v, its backend is there: %v", row, err, there[row[0]])
			}
		}
		if len(img.Registrations) != len(img.Backends) {
			t.Fatalf("%d registrations, %d backends", len(img.Registrations), len(img.Backends))
		}
		err = n.store().Write(context.WithoutCancel(t.Context()), func(tx *sqlite.Tx) error {
			for id := range there {
				if err := unregister(tx, id.(string)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// Heartbeats are soft state: many of them are few writes, and what changes
// routing is written at once.
func TestHeartbeatsAreWrittenSeldom(t *testing.T) {
	n := start(t, "EDGEPROXY_ALLOW_BACKENDS=127.0.0.0/8", "EDGEPROXY_HEARTBEAT_TTL_SECS=60")
	for i := range 20 {
		if code, text := post(t, n, "/api/v1/register", fmt.Sprintf(`{"id":"b-%d","app":"web","region":"sa","ip":"127.0.0.1","port":%d}`, i, 1000+i)); code != 201 {
			t.Fatalf("%d %s", code, text)
		}
	}
	before, began := n.picture().readCount(), time.Now()
	for round := range 40 {
		for i := range 20 {
			if code, text := post(t, n, fmt.Sprintf("/api/v1/heartbeat/b-%d", i), ""); code != 200 || !strings.Contains(text, `"ttl_secs":60`) {
				t.Fatalf("%d %s", code, text)
			}
		}
		if round%10 == 0 {
			<-time.After(250 * time.Millisecond)
		}
	}
	// 800 heartbeats; a write a second at most, and the reads of other reasons.
	if reads, most := n.picture().readCount()-before, uint64(4+4*time.Since(began)/time.Second); reads > most {
		t.Errorf("the tables were read %d times in %s, want at most %d", reads, time.Since(began), most)
	}
	if code, _ := post(t, n, "/api/v1/heartbeat/b-7", `{"failing":"no"}`); code != 200 {
		t.Fatal(code)
	}
	if b, _ := n.router.Snapshot().Backend("b-7"); b == nil || !b.Failing() {
		t.Errorf("after a heartbeat that says so it is %+v", b)
	}
	if code, _ := post(t, n, "/api/v1/heartbeat/b-7", ""); code != 200 {
		t.Fatal(code)
	}
	if b, _ := n.router.Snapshot().Backend("b-7"); b == nil || b.Failing() {
		t.Errorf("after the next heartbeat it is %+v", b)
	}
}

// An end of a registration ends nothing else: no static row, nor a successor's.
func TestUnregister(t *testing.T) {
	n := start(t, "EDGEPROXY_ALLOW_BACKENDS=127.0.0.0/8")
	if code, text := post(t, n, "/api/v1/backends", `{"id":"static","region":"sa","ip":"127.0.0.1","port":1}`); code != 201 {
		t.Fatalf("%d %s", code, text)
	}
	if code, text := post(t, n, "/api/v1/register", `{"id":"a","app":"web","region":"sa","ip":"::ffff:127.0.0.1","port":2}`); code != 201 {
		t.Fatalf("%d %s", code, text)
	}
	for _, c := range []struct {
		query string
		code  int
	}{
		{"none?registered=true", 404}, {"static?registered=true", 409}, {"static?registered=true&addr=127.0.0.1:1", 409},
		{"a?registered=true&addr=127.0.0.1:1", 409}, {"a?registered=true&addr=127.0.0.2:2", 409}, {"a?addr=127.0.0.1:2", 400},
		{"a?registered=yes", 400}, {"a?registered=true&addr=x", 400}, {"a?registered=true&addr=[::ffff:127.0.0.1]:2", 204}, {"a?registered=true", 404}, {"static", 204},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "DELETE", "http://"+n.Addrs().API+"/api/v1/backends/"+c.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.code {
			t.Errorf("DELETE %s: %d, want %d", c.query, resp.StatusCode, c.code)
		}
	}
}

// A POP that may not know yet what the others have makes no row of a backend
// that they may know: it sends the agent to them.
func TestRegisterBeforeTheFirstExchange(t *testing.T) {
	n := start(t, "EDGEPROXY_ALLOW_BACKENDS=127.0.0.0/8", "EDGEPROXY_JOIN=127.0.0.1:1")
	const body = `{"id":"a","app":"web","region":"sa","ip":"127.0.0.1","port":2}`
	if code, text := post(t, n, "/api/v1/register", body); code != 503 || !strings.Contains(text, "ask another POP") {
		t.Errorf("register: %d %s", code, text)
	}
	if code, text := post(t, n, "/api/v1/heartbeat/a", ""); code != 503 || !strings.Contains(text, "ask another POP") {
		t.Errorf("heartbeat: %d %s", code, text)
	}
	if code, text := post(t, n, "/api/v1/backends", body); code != 201 {
		t.Errorf("an operator's: %d %s", code, text)
	}
	if code, text := post(t, n, "/api/v1/register", body); code != 503 { // its registration may be on its way
		t.Errorf("register over a row without a registration: %d %s", code, text)
	}
	err := n.store().Write(t.Context(), func(tx *sqlite.Tx) error {
		return tx.Put(sqlite.Registrations, "a", map[string]any{"pop": "eu", "heartbeat_ms": time.Now().UnixMilli(), "ttl_secs": 60})
	})
	if err == nil {
		err = n.picture().catchUp(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if code, text := post(t, n, "/api/v1/heartbeat/a", ""); code != 200 {
		t.Errorf("heartbeat of what is registered: %d %s", code, text)
	}
	if code, text := post(t, n, "/api/v1/register", body); code != 201 {
		t.Errorf("register what is registered: %d %s", code, text)
	}
}

// Many whose health changes at once are written together, and read together.
func TestManyFlips(t *testing.T) {
	n := start(t, "EDGEPROXY_ALLOW_BACKENDS=127.0.0.0/8")
	const many = 64
	for i := range many {
		if code, text := post(t, n, "/api/v1/register", fmt.Sprintf(`{"id":"b-%d","app":"web","region":"sa","ip":"127.0.0.1","port":%d}`, i, 1000+i)); code != 201 {
			t.Fatalf("%d %s", code, text)
		}
	}
	registry, picture := n.mesh().registry, n.picture()
	before := picture.readCount()
	asked := picture.asked.Load()
	picture.mu.Lock() // as a read that takes long
	var flips sync.WaitGroup
	for i := range many {
		flips.Go(func() {
			if _, err := registry.heartbeat(t.Context(), fmt.Sprintf("b-%d", i), api.Heartbeat{Failing: "no"}); err != nil {
				t.Error(err)
			}
		})
	}
	for began := time.Now(); picture.asked.Load() < asked+many && time.Since(began) < 20*time.Second; {
		<-time.After(time.Millisecond) // all write, and wait for the picture
	}
	picture.mu.Unlock()
	flips.Wait()
	if reads := picture.readCount() - before; reads > many/8 {
		t.Errorf("%d changes cost %d reads of all rows", many, reads)
	}
	for i := range many {
		if b, ok := n.router.Snapshot().Backend(fmt.Sprintf("b-%d", i)); !ok || !b.Failing() {
			t.Errorf("b-%d is %+v", i, b)
		}
	}
}

// An old heartbeat that waits to be written does not undo a later one that
// another POP took; it does where that one is dated in the future.
func TestOldHeartbeats(t *testing.T) {
	n := start(t, "EDGEPROXY_ALLOW_BACKENDS=127.0.0.0/8")
	if code, text := post(t, n, "/api/v1/register", `{"id":"a","app":"web","region":"sa","ip":"127.0.0.1","port":2}`); code != 201 {
		t.Fatalf("%d %s", code, text)
	}
	r := n.mesh().registry
	now := r.now()
	old := beat{at: now.Add(-3 * time.Second), dirty: true}
	for what, c := range map[string]struct {
		age  time.Duration // of what the row has
		want string
	}{"later": {time.Second, "eu"}, "of now": {0, "eu"}, "earlier": {5 * time.Second, r.m.node}, "in the future": {-time.Hour, r.m.node}} {
		var pop any
		err := n.store().Write(t.Context(), func(tx *sqlite.Tx) error {
			if err := tx.Put(sqlite.Registrations, "a", map[string]any{"pop": "eu", "heartbeat_ms": now.Add(-c.age).UnixMilli()}); err != nil {
				return err
			}
			if err := r.put(tx, []string{"a"}, map[string]beat{"a": old}); err != nil {
				return err
			}
			row, _, err := tx.Get(sqlite.Registrations, "a")
			pop = row[1]
			return err
		})
		if err != nil || pop != c.want {
			t.Errorf("%s than the one that waits: the row is of %v, want %s (%v)", what, pop, c.want, err)
		}
	}
}

// A row that is dated in the future is written anew also where it is this POP's.
func TestDueOfTheFuture(t *testing.T) {
	r := &registry{m: &replication{node: "us"}, ttl: func() time.Duration { return time.Minute }}
	now := time.Now()
	for ahead, want := range map[time.Duration]bool{time.Hour: true, 2 * time.Second: true, 500 * time.Millisecond: false, -time.Second: false} {
		if got := r.dueLocked(beat{at: now}, &mesh.Registration{POP: "us", TTL: time.Minute, Heartbeat: now.Add(ahead)}, now); got != want {
			t.Errorf("a row that is %s ahead is due: %v", ahead, got)
		}
	}
}

// TestWhyExpired: why a backend has expired is said truly, whatever its row holds.
func TestWhyExpired(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	for _, c := range []struct {
		heartbeat time.Time
		pop, want string
	}{
		{now.Add(-5 * time.Second), "us-1", "no heartbeat for 5s (its TTL is 3s), the last was heard by us-1"},
		{now.Add(-5 * time.Second), "", "no heartbeat for 5s (its TTL is 3s)"},
		{time.UnixMilli(0), "us-1", "no heartbeat was ever heard (its TTL is 3s)"},
		{now.Add(24 * time.Hour), "us-1", "its last heartbeat is dated 24h0m0s in the future, and none was heard since this POP has seen that (its TTL is 3s), the last was heard by us-1"},
	} {
		if got := whyExpired(&mesh.Registration{Heartbeat: c.heartbeat, POP: c.pop, TTL: 3 * time.Second}, now); got != c.want {
			t.Errorf("%s before now, by %q: %q, want %q", now.Sub(c.heartbeat), c.pop, got, c.want)
		}
	}
	if got := secondsSince(time.UnixMilli(0), now); got != nil {
		t.Errorf("what never was is %d seconds ago", *got)
	}
	if got := secondsSince(now.Add(-5*time.Second), now); got == nil || *got != 5 {
		t.Errorf("5 seconds ago is %v", got)
	}
}

// TestNamesAreAsked: a new backend says what it is part of, by names that
// somebody can write again; what is there may leave them out.
func TestNamesAreAsked(t *testing.T) {
	n := start(t)
	const rest = `"region":"sa","ip":"10.0.0.9","port":80}`
	for _, c := range []struct{ path, body, field string }{
		{"register", `{"id":"a",` + rest, "app"},
		{"register", `{"id":" a","app":"web",` + rest, "id"}, {"backends", `{"id":" a",` + rest, "id"},
		{"register", `{"id":"a\u00a0","app":"web",` + rest, "id"}, {"backends", `{"id":"a\u2003",` + rest, "id"},
		{"register", `{"id":"a\ud800","app":"web",` + rest, "id"}, {"backends", `{"id":"\ufffdb",` + rest, "id"},
	} {
		if code, text := post(t, n, "/api/v1/"+c.path, c.body); code != 400 || !strings.Contains(text, `"field":"`+c.field+`"`) {
			t.Errorf("%s %s: %d %s, want 400 and %s named", c.path, c.body, code, text, c.field)
		}
	}
	if l, err := n.Backends(t.Context()); err != nil || l.Total != 0 {
		t.Errorf("after what was refused: %+v, %v", l, err)
	}
	for _, body := range []string{`{"id":"a","app":"web",` + rest, `{"id":"a",` + rest, `{"id":"b","app":"",` + rest} {
		if code, text := post(t, n, "/api/v1/register", body); code != 201 {
			t.Errorf("%s: %d %s", body, code, text)
		}
	}
	if b, err := n.Backend(t.Context(), "a"); err != nil || b.App != "web" {
		t.Errorf("registered again without the app: %+v, %v", b, err)
	}
	execute(t, n, "INSERT INTO backends (id, app, region, wg_ip, port) VALUES (' c', 'web', 'us', '10.0.0.9', 80)")
	if b, err := n.UpdateBackend(t.Context(), " c", api.Patch{Draining: new(true)}); err != nil || b.State != "draining" {
		t.Errorf("drained by its name: %+v, %v", b, err)
	}
}
