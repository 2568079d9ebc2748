package clustertests

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	model "github.com/edgeproxy/edgeproxy/mesh"
)

// TestLoopsAreCut: POPs whose backends are each other's listeners, and their own.
func TestLoopsAreCut(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 2)
	real := startBackend(t, "real", "sa")
	rows := []row{real.row()}
	for _, p := range m.pops {
		rows = append(rows, at("pop-"+p.Node, "sa", netip.MustParseAddrPort(p.Listen)))
	}
	m.pops[0].sql(t, insert(rows...))
	for _, p := range m.pops {
		eventually(t, converged, func() error {
			if states := p.states(t); len(states) != 1 || states["real"] != "up" {
				return fmt.Errorf("%s has %v, want only the real one", p.Node, states)
			}
			return nil
		})
		problems := p.status(t).Problems
		if len(problems) != 2 || slices.ContainsFunc(problems, func(q model.Problem) bool {
			return q.Table != "backends" || q.Field != "wg_ip" || !strings.Contains(q.Message, "a POP does not relay to a POP") || !strings.Contains(q.Message, strings.TrimPrefix(q.ID, "pop-"))
		}) {
			t.Errorf("problems of %s: %v", p.Node, problems)
		}
		for range 20 {
			if got := p.goes(t, ""); got != "real" {
				t.Fatalf("a client got %q", got)
			}
		}
	}
	m.pops[1].sql(t, "DELETE FROM backends WHERE id = 'real'")
	for _, p := range m.pops {
		eventually(t, converged, func() error {
			if n := len(p.states(t)); n != 0 {
				return fmt.Errorf("%d backends are left", n)
			}
			return nil
		})
		before := p.metric(t, "edgeproxy_connections_accepted_total")
		began := time.Now()
		if v, err := p.call(""); err == nil {
			t.Errorf("a client got %q where there is none", v.backend)
			v.Close()
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("a client was refused after %s", took)
		}
		if n := p.metric(t, "edgeproxy_connections_accepted_total") - before; n > 1 {
			t.Errorf("one client made %v connections", n)
		}
	}
}

// TestAllowedLoopsEnd: POPs may be each other's backends where an operator
// wants it; a client then goes over two POPs, and never in circles.
func TestAllowedLoopsEnd(t *testing.T) {
	needs(t, "long") // a mesh of POPs, slow to start among others
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("clients have addresses of their own in 127.0.0.0/8 on Linux only")
	}
	m := newMesh(t, 2, allowLoopback, "EDGEPROXY_HEALTH_CHECK=off") // checks are connections, too
	var rows []row
	for i, p := range m.pops {
		r := at(fmt.Sprintf("pop-%d", i), "sa", netip.MustParseAddrPort(p.Listen))
		rows = append(rows, r)
	}
	m.pops[0].sql(t, insert(rows...))
	for _, p := range m.pops {
		onAll(t, converged, []*pop{p}, "pop-0", "up")
		onAll(t, converged, []*pop{p}, "pop-1", "up")
	}
	accepted := func() float64 {
		return m.pops[0].metric(t, "edgeproxy_connections_accepted_total") + m.pops[1].metric(t, "edgeproxy_connections_accepted_total")
	}
	// from is one line of what somebody gets who comes from this address.
	from := func(host string) (string, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}}
		c, err := d.Dial("tcp", m.pops[0].Listen)
		if err != nil {
			return "", err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
			return "", err
		}
		return bufio.NewReader(c).ReadString('\n')
	}
	began := time.Now()
	for range 20 {
		if line, err := from("127.0.0.77"); err == nil {
			t.Fatalf("somebody answered %q where there is no backend", line)
		}
	}
	if n := accepted(); n != 40 {
		t.Errorf("20 clients made %v connections to POPs, want two each", n)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("20 clients were refused after %s", took)
	}
	eventually(t, soon, func() error {
		for _, p := range m.pops {
			if st, err := look[api.Status](p, "status"); err != nil || st.Connections > 0 {
				return fmt.Errorf("%s has %d connections, %v", p.Node, st.Connections, err)
			}
		}
		return nil
	})
	// With a backend far away it gets there, directly or over the other POP.
	m.pops[1].sql(t, insert(startBackend(t, "real", "ap").row()))
	onAll(t, converged, m.pops, "real", "up")
	for range 5 {
		if line, err := from("127.0.0.77"); err != nil || !strings.Contains(line, "real") {
			t.Errorf("a client got %q, %v", line, err)
		}
	}
	e := m.pops[0].explain(t, "127.0.0.1")
	for _, c := range e.Candidates {
		if loops := strings.HasPrefix(c.ID, "pop-"); loops != (c.Excluded == "loop") || e.Chosen != "real" {
			t.Errorf("for a POP: %+v", e)
		}
	}
}
