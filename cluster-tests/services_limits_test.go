package clustertests

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// serviced is a POP with a service of two backends, whose row says this besides.
func serviced(t *testing.T, columns map[string]string, rows []row, env ...string) (p *pop, addr string) {
	t.Helper()
	addr = freeAddress(t)
	for i := range rows {
		rows[i] = rows[i].of("svc")
	}
	p = startPOP(t, rows, append(env, unchecked)...)
	all := map[string]string{"listen": addr}
	for k, v := range columns {
		all[k] = v
	}
	p.sql(t, service("svc", all))
	eventually(t, soon, func() error {
		v, err := entrance(addr).call("")
		if err == nil {
			v.Close()
		}
		return err
	})
	p.settled(t)
	return p, addr
}

// TestServiceAffinity: a service's word on it counts for its clients, whatever the POP's is.
func TestServiceAffinity(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		label, env string
		columns    map[string]string
		stays      bool
	}{
		{"off where the POP has it", "EDGEPROXY_BINDING_TTL_SECS=600", map[string]string{"affinity_ttl": "0"}, false},
		{"on where the POP has none", noAffinity, map[string]string{"affinity_ttl": "600"}, true},
		{"unsaid", "EDGEPROXY_BINDING_TTL_SECS=600", nil, true},
	} {
		t.Run(tt.label, func(t *testing.T) {
			t.Parallel()
			_, addr := serviced(t, tt.columns, []row{startBackend(t, "a", "sa").row(), startBackend(t, "b", "sa").row()}, tt.env)
			seen := map[string]bool{}
			for range 10 { // they stay open: the other backend is better then
				seen[entrance(addr).visit(t, "").backend] = true
			}
			if (len(seen) == 1) != tt.stays {
				t.Errorf("one client got %v, want it to stay: %v", sorted(seen), tt.stays)
			}
		})
	}
}

// TestServiceTimeouts: how long a connect may take, and a connection be silent.
func TestServiceTimeouts(t *testing.T) {
	t.Parallel()
	onRelays(t, func(t *testing.T, relay string) {
		rows := []row{at("mute", "sa", blackhole(t)), startBackend(t, "far", "us").row()}
		p, addr := serviced(t, map[string]string{"connect_timeout_ms": "200", "idle_timeout_secs": "1"}, rows, relay, noAffinity, "EDGEPROXY_CONNECT_TIMEOUT_MS=60000")
		began := time.Now()
		v := entrance(addr).visit(t, "")
		if took := time.Since(began); v.backend != "far" || took < 150*time.Millisecond || took > 10*time.Second {
			t.Errorf("%s after %s, want far after 200ms", v.backend, took)
		}
		if err := closedSoon(v, 10*time.Second); err != nil {
			t.Errorf("a silent connection: %v", err)
		}
		if took := time.Since(began); took < time.Second { // its last byte came after it began
			t.Errorf("it was closed after %s", took)
		}
		p.counts(t, "idle_timeout", 1)
		// Taken back, it is as the POP says: an hour.
		if code, out, errs := p.run(t, "service", "set", "svc", "--idle-timeout-secs", "0"); code != 0 {
			t.Fatalf("%d %s%s", code, out, errs)
		}
		v = entrance(addr).visit(t, "")
		<-time.After(1500 * time.Millisecond)
		v.alive(t)
	})
}

// TestServiceFull: more connections than a service may have are reset, those of
// others are not, and what ends makes room.
func TestServiceFull(t *testing.T) {
	t.Parallel()
	onRelays(t, func(t *testing.T, relay string) {
		p, addr := serviced(t, map[string]string{"max_connections": "2"}, []row{startBackend(t, "a", "sa").row()}, relay, noAffinity)
		svc := entrance(addr)
		one := svc.visit(t, "")
		svc.visit(t, "").alive(t)
		for range 3 {
			if v, err := svc.call(""); err == nil {
				v.Close()
				t.Error("a third connection was served")
			}
		}
		p.visit(t, "").alive(t) // at the default listener
		one.alive(t)
		p.counts(t, "service_full", 3)
		one.Close()
		eventually(t, soon, func() error {
			v, err := svc.call("")
			if err == nil {
				v.Close()
			}
			return err
		})
		p.sql(t, "UPDATE services SET max_connections = 100 WHERE app = 'svc'")
		eventually(t, soon, func() error {
			visits, err := svc.openMany(50)
			closeAll(visits)
			return err
		})
	})
}

// TestUpgradeOfServices: while connections come to services of all modes, one
// process takes over from the other. None is refused, and open ones go on.
func TestUpgradeOfServices(t *testing.T) {
	t.Parallel()
	onRelays(t, func(t *testing.T, relay string) {
		ca := newAuthority(t)
		p, secured, _ := terminating(t, relay, startBackend(t, "plain", "sa").row(), ca.issue(t, "site.example", "*.site.example"), nil)
		plain := freeAddress(t)
		p.sql(t, service("other", map[string]string{"listen": plain})+
			service("pass", map[string]string{"listen": secured, "mode": "tls-passthrough", "sni": "pass.example"})+
			insert(startBackend(t, "other", "sa").row().of("other"), at("pass", "sa", ca.secureBackend(t, "pass", nil, "pass.example")).of("pass")))
		calls := []func() error{
			func() error {
				v, err := entrance(plain).call("")
				if err == nil {
					err = v.echo("hello")
					v.Close()
				}
				return err
			},
			func() error { _, err := greeted(secured, ca.client("site.example"), nil); return err },
			func() error { _, err := greeted(secured, ca.client("pass.example"), nil); return err },
		}
		for _, call := range calls {
			eventually(t, soon, call)
		}
		kept := entrance(plain).visit(t, "")
		keptSecure, err := shake(secured, ca.client("site.example"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer keptSecure.Close()
		if _, err := keptSecure.r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}

		var all sync.WaitGroup
		var over atomic.Bool
		errs := make([]error, len(calls))
		for i, call := range calls {
			all.Go(func() {
				for n := 0; errs[i] == nil && !(over.Load() && n >= 10); n++ {
					errs[i] = call()
				}
			})
		}
		for range 2 {
			p.upgrade(t)
		}
		over.Store(true)
		all.Wait()
		for i, err := range errs {
			if err != nil {
				t.Errorf("kind %d: %v", i, err)
			}
		}
		kept.alive(t)
		if err := keptSecure.echo("still there?"); err != nil {
			t.Errorf("a TLS connection that was open: %v", err)
		}
		if st := p.status(t); !st.Ready || len(st.Faults) > 0 {
			t.Errorf("after the upgrades: %s %v", fmt.Sprint(st.Reasons), st.Faults)
		}
	})
}
