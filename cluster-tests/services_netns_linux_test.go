package clustertests

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"
)

// TestServiceOnEveryPOP: POPs with a machine each, as network namespaces are,
// all listen within a second of a row's being written on one of them, all move,
// and all close.
func TestServiceOnEveryPOP(t *testing.T) {
	needs(t, "netns")
	if err := canSpaces(); err != nil {
		t.Fatal(err)
	}
	s := newSpaces(t, seedOf(t), false)
	m := s.raise(3)
	// reached waits until all POPs listen at a port, or none does.
	reached := func(port string, want bool) (took time.Duration) {
		t.Helper()
		began := time.Now()
		eventually(t, soon, func() error {
			for _, p := range m.pops {
				host, _, err := net.SplitHostPort(p.Listen)
				if err != nil {
					return err
				}
				// What arrives while a listener closes is not answered, as if the packet were lost.
				c, err := net.DialTimeout("tcp", net.JoinHostPort(host, port), 50*time.Millisecond)
				if err == nil {
					c.Close()
				}
				if refused := errors.Is(err, syscall.ECONNREFUSED); want && err != nil || !want && !refused {
					return errors.Join(err, errors.New(p.Node+" is not there yet"))
				}
			}
			return nil
		})
		return time.Since(began)
	}
	within := func(what string, took time.Duration) {
		t.Helper()
		t.Logf("%s: %s", what, took.Round(time.Millisecond))
		if took > time.Second {
			t.Errorf("%s took %s, want a second at most", what, took)
		}
	}
	m.pops[0].sql(t, service("svc", map[string]string{"listen": ":9000"}))
	within("listening", reached("9000", true))
	m.pops[1].sql(t, "UPDATE services SET listen = '9001'")
	within("moving", reached("9001", true))
	within("leaving", reached("9000", false))
	m.pops[2].sql(t, "DELETE FROM services")
	within("closing", reached("9001", false))
	for _, p := range m.pops {
		if got, err := p.faultsAt(":9001"); err != nil || len(got) > 0 {
			t.Errorf("%s: faults of %v, %v", p.Node, got, err)
		}
	}
}
