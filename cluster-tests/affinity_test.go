package clustertests

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// twoBackends is a POP with two in one region: a client's second connection
// would go to the other one, which has none, were it not for affinity.
func twoBackends(t testing.TB, env ...string) *pop {
	t.Helper()
	rows := []row{startBackend(t, "a", "sa").row(), startBackend(t, "b", "sa").row()}
	return startPOP(t, rows, append(trusting, env...)...)
}

func other(id string) string {
	if id == "a" {
		return "b"
	}
	return "a"
}

// TestAffinity: a client stays where it was, whatever the load; others do not.
func TestAffinity(t *testing.T) {
	t.Parallel()
	p := twoBackends(t)
	first := p.visit(t, "200.160.2.3")
	for range 20 {
		if v := p.visit(t, "200.160.2.3"); v.backend != first.backend {
			t.Fatalf("the client went to %s and then to %s", first.backend, v.backend)
		}
	}
	for i := range 15 {
		if v := p.visit(t, fmt.Sprintf("200.160.3.%d", i)); v.backend == first.backend {
			t.Fatalf("another client went to %s, which has 21 connections", v.backend)
		}
	}
	if e := p.explain(t, "200.160.2.3"); e.Chosen != first.backend || e.Reason != "affinity" {
		t.Errorf("explain says %s for %s, want %s for affinity", e.Chosen, e.Reason, first.backend)
	}
	if n := p.status(t).Bindings; n != 16 {
		t.Errorf("status counts %d bindings, want 16", n)
	}
}

// TestAffinityOfIPv6: one /64 is one client.
func TestAffinityOfIPv6(t *testing.T) {
	t.Parallel()
	p := twoBackends(t)
	first := p.visit(t, "2001:db8:1:2::1")
	for _, same := range []string{"2001:db8:1:2::2", "2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2:a:b:c:d"} {
		if v := p.visit(t, same); v.backend != first.backend {
			t.Errorf("%s went to %s, its /64 was at %s", same, v.backend, first.backend)
		}
	}
	for i := range 3 {
		if v := p.visit(t, fmt.Sprintf("2001:db8:1:%x::1", 3+i)); v.backend == first.backend {
			t.Errorf("another /64 went to %s, which has four connections", v.backend)
		}
	}
	// IPv4 in IPv6's clothes is the IPv4 client.
	v4 := p.visit(t, "200.160.2.3")
	for range 4 {
		v, err := p.callWith(header(1, "::ffff:200.160.2.3"))
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		if v.backend != v4.backend {
			t.Errorf("the mapped address went to %s, the plain one to %s", v.backend, v4.backend)
		}
	}
}

// TestAffinityExpires after the TTL since the client's last connection, not before.
func TestAffinityExpires(t *testing.T) {
	t.Parallel()
	p := twoBackends(t, "EDGEPROXY_BINDING_TTL_SECS=1")
	const client = "200.160.2.3"
	began := time.Now()
	first := p.visit(t, client)
	bound := func() bool { return p.explain(t, client).Reason == "affinity" }
	eventually(t, soon, func() error {
		if bound() {
			return errors.New("still bound")
		}
		return nil
	})
	if took := time.Since(began); took < time.Second {
		t.Errorf("the binding expired after %s, want 1 s", took)
	}
	last := time.Now()
	second := p.visit(t, client)
	if second.backend == first.backend {
		t.Errorf("after its binding had expired the client went to %s again, which has a connection", second.backend)
	}
	first.alive(t)

	// Connections renew it. It is as old as what came last at most: last is from before that.
	for began = time.Now(); time.Since(began) < 1500*time.Millisecond; {
		now := time.Now()
		v := p.visit(t, client)
		if v.backend != second.backend && time.Since(last) < time.Second {
			t.Fatalf("a client that came all the time went from %s to %s after %s", second.backend, v.backend, time.Since(began))
		}
		v.Close()
		last, second = now, v
	}
}

// TestAffinityYields to what the operator says of the backend, and the
// connections that are open there go on.
func TestAffinityYields(t *testing.T) {
	t.Parallel()
	const client = "200.160.2.3"
	for name, away := range map[string]func(t *testing.T, p *pop, id string){
		"healthy=0": func(t *testing.T, p *pop, id string) { p.sql(t, "UPDATE backends SET healthy=0 WHERE id='"+id+"'") },
		"deleted=1": func(t *testing.T, p *pop, id string) { p.sql(t, "UPDATE backends SET deleted=1 WHERE id='"+id+"'") },
		"row gone":  func(t *testing.T, p *pop, id string) { p.sql(t, "DELETE FROM backends WHERE id='"+id+"'") },
		"full":      func(t *testing.T, p *pop, id string) { p.sql(t, "UPDATE backends SET hard_limit=1 WHERE id='"+id+"'") },
		"row broken": func(t *testing.T, p *pop, id string) {
			p.sql(t, "UPDATE backends SET port=0 WHERE id='"+id+"'")
		},
		"draining by SQL": func(t *testing.T, p *pop, id string) {
			p.sql(t, "INSERT INTO backend_options (id, draining) VALUES ('"+id+"', 1)")
		},
		"draining by API": func(t *testing.T, p *pop, id string) {
			if a := p.ask(t, "PATCH", "/api/v1/backends/"+id, `{"draining":true}`); a.code != 200 {
				t.Errorf("PATCH: %+v", a)
			}
		},
		"drain by command": func(t *testing.T, p *pop, id string) {
			if code, out, errs := p.run(t, "backend", "drain", id); code != 0 {
				t.Errorf("backend drain: %d %q %q", code, out, errs)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := twoBackends(t)
			first := p.visit(t, client)
			if got := p.goes(t, client); got != first.backend {
				t.Fatalf("the client went to %s and then to %s", first.backend, got)
			}
			away(t, p, first.backend)
			eventually(t, soon, func() error { return p.goesTo(client, other(first.backend)) })
			first.alive(t)
			if e := p.explain(t, client); e.Chosen != other(first.backend) || e.Reason != "affinity" {
				t.Errorf("explain says %s for %s, want the client bound to the other one", e.Chosen, e.Reason)
			}
		})
	}
}
