package clustertests

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// faultsAt is which POPs say, by the word of p, that they cannot listen at an address.
func (p *pop) faultsAt(addr string) (pops []string, err error) {
	st, err := look[api.Status](p, "status")
	for _, f := range st.Faults {
		if f.Listen == addr {
			pops = append(pops, f.POP)
		}
	}
	slices.Sort(pops)
	return pops, err
}

// allSay waits until every POP knows the same of an address: how many POPs
// cannot have it. It returns one that can.
func (m *mesh) allSay(t testing.TB, addr string, faults int) (listens *pop) {
	t.Helper()
	eventually(t, soon, func() error {
		var same []string
		for i, p := range m.pops {
			got, err := p.faultsAt(addr)
			if err != nil {
				return err
			}
			if i > 0 && !slices.Equal(got, same) || len(got) != faults {
				return fmt.Errorf("%s: faults of %v on %s, another says %v, want %d", p.Node, got, addr, same, faults)
			}
			same = got
		}
		for _, p := range m.pops {
			if !slices.Contains(same, p.Node) {
				listens = p
			}
		}
		return nil
	})
	return listens
}

// TestServiceOfAMesh: an address on one machine can be only one POP's. The
// others say so, on all POPs, in status and in metrics, and take it over by
// themselves as soon as they can.
func TestServiceOfAMesh(t *testing.T) {
	t.Parallel()
	b := startBackend(t, "b", "sa").row().of("svc")
	m := newMesh(t, 3, unchecked)
	first, second := freeAddress(t), freeAddress(t)
	m.pops[1].sql(t, insert(b))
	if code, out, errs := m.pops[2].run(t, "service", "add", "svc", "--listen", first); code != 0 {
		t.Fatalf("service add: %d %s%s", code, out, errs)
	}
	m.allSay(t, first, 2)
	// The alphabet would give it the address, and the clients of svc.
	if code, out, errs := m.pops[0].run(t, "service", "add", "a-new-one", "--listen", first); code == 0 || !strings.Contains(errs, "svc would not be served at "+first) {
		t.Errorf("another one there: %d %s%s", code, out, errs)
	}
	svc := entrance(first)
	eventually(t, soon, func() error { return svc.goesTo("", "b") })
	for _, p := range m.pops {
		if n := p.metric(t, "edgeproxy_listener_fault", `app="svc"`, `listen="`+first+`"`); n != 2 {
			t.Errorf("%s: the metric says %v, want 2", p.Node, n)
		}
		code, out, _ := p.run(t, "status", "--api", p.API)
		if n := len(linesWith(out, "fault", first, "in use")); code != 0 || n != 2 {
			t.Errorf("%s: status has %d lines of faults, want 2:\n%s", p.Node, n, out)
		}
		if code, out, _ := p.run(t, "service", "list", "--api", p.API); code != 0 || !strings.Contains(out, "2") || !strings.Contains(out, first) {
			t.Errorf("%s: service list: %s", p.Node, out)
		}
	}

	// It moves to another address; who is there goes on.
	kept := svc.visit(t, "")
	began := time.Now()
	m.pops[0].sql(t, fmt.Sprintf("UPDATE services SET listen = '%s' WHERE app = 'svc'", second))
	listens(t, second)
	if took := time.Since(began); took > converged {
		t.Errorf("moved after %s", took)
	}
	closes(t, first)
	m.allSay(t, first, 0)
	holder := m.allSay(t, second, 2)
	kept.alive(t)
	eventually(t, soon, func() error { return entrance(second).goesTo("", "b") })

	// The one that has it goes: another takes it, and says no more that it cannot.
	kept.Close()
	holder.stop(t)
	rest := &mesh{pops: slices.DeleteFunc(slices.Clone(m.pops), func(p *pop) bool { return p == holder })}
	if next := rest.allSay(t, second, 1); next == holder {
		t.Error("one that has ended listens")
	}
	eventually(t, soon, func() error { return entrance(second).goesTo("", "b") })

	// Removed, nobody listens; who is there goes on until it ends.
	kept = entrance(second).visit(t, "")
	if code, out, errs := rest.pops[0].run(t, "service", "remove", "svc"); code != 0 {
		t.Fatalf("service remove: %d %s%s", code, out, errs)
	}
	closes(t, second)
	rest.allSay(t, second, 0)
	kept.alive(t)
}

// TestTakenPort: a port of somebody else's is a fault of this POP, which ends
// when that one lets go of it.
func TestTakenPort(t *testing.T) {
	t.Parallel()
	p := startPOP(t, []row{startBackend(t, "b", "sa").row().of("svc")}, unchecked)
	held := listenKept(t)
	addr := held.Addr().String()
	p.sql(t, service("svc", map[string]string{"listen": addr + "," + p.Listen}))
	eventually(t, soon, func() error {
		st, err := look[api.Status](p, "status")
		if err == nil && (len(st.Faults) != 2 || !strings.Contains(st.Faults[0].Error+st.Faults[1].Error, "in use") ||
			!strings.Contains(st.Faults[0].Error+st.Faults[1].Error, "listen_addr")) {
			err = fmt.Errorf("faults %v, want one for a port in use and one for the POP's own", st.Faults)
		}
		return err
	})
	if err := p.isReady(); err != nil {
		t.Errorf("for the sake of one port: %v", err)
	}
	held.Close()
	began := time.Now()
	eventually(t, soon, func() error { return entrance(addr).goesTo("", "b") })
	if took := time.Since(began); took > converged {
		t.Errorf("it listens after %s", took)
	}
	eventually(t, soon, func() error {
		if got, err := p.faultsAt(addr); err != nil || len(got) != 0 {
			return fmt.Errorf("%v %w", got, errors.Join(err, errors.New("the fault is still known")))
		}
		return nil
	})
}

// TestRemovedServiceDrains: connections of a service that was removed survive
// that, and a drain waits for them like for any other.
func TestRemovedServiceDrains(t *testing.T) {
	t.Parallel()
	onRelays(t, func(t *testing.T, relay string) {
		p, addr := serviced(t, nil, []row{startBackend(t, "b", "sa").row()}, relay)
		kept := entrance(addr).visit(t, "")
		p.sql(t, "DELETE FROM services")
		closes(t, addr)
		kept.alive(t)
		p.signal(t, 15)
		p.expectLog(t, "draining")
		kept.alive(t)
		kept.Close()
		if code := p.wait(t, 10*time.Second); code != 0 {
			t.Errorf("ended with %d", code)
		}
		if _, err := net.Dial("tcp", addr); err == nil {
			t.Error("somebody listens")
		}
	})
}
