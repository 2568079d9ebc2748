package clustertests

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
)

// spaces is a POP in each network namespace, with our fabric between them.
//
//	here (.254) --- fabric --- eth0 of POP 0 (.1)
//	                  +------- eth0 of POP 1 (.2) ...
type spaces struct {
	processes
	fabric *fabric
	first  int // number of the first POP's namespace
	made   int
}

// spaceRuns counts those of this process, which then have names of their own.
var spaceRuns atomic.Int64

// canSpaces says what is missing, in a sentence.
func canSpaces() error {
	if os.Getuid() != 0 {
		return errors.New("EDGEPROXY_TEST=netns makes network namespaces, which needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("EDGEPROXY_TEST=netns needs iproute2: apt-get install iproute2")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("EDGEPROXY_TEST=netns needs TUN devices: %w", err)
	}
	return nil
}

func newSpaces(t testing.TB, seed uint64, disks bool) *spaces {
	t.Helper()
	n, pid := int(spaceRuns.Add(1)), os.Getpid()
	l := newLinks(seed)
	subnet := fmt.Sprintf("10.%d.%d", 100+pid%100, n%250)
	s := &spaces{
		processes: processes{t: t, links: l, host: subnet + ".254", disks: disks},
		fabric:    newFabric(t, l, subnet), first: 100 * n,
	}
	if err := s.fabric.plug("", fmt.Sprintf("ep%d.%d", pid%100000, n), -1, netip.MustParseAddr(s.host)); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *spaces) raise(n int) *mesh {
	m := planMesh(s.t, n)
	for _, p := range m.pops {
		s.place(p)
	}
	m.start(s.t)
	for _, p := range m.pops {
		s.wakes(p)
	}
	return m
}

func (s *spaces) add(m *mesh) *pop {
	p := m.add(s.t)
	s.place(p)
	p.start(s.t)
	s.wakes(p)
	return p
}

// place makes a namespace for a POP, which the end of the test removes.
func (s *spaces) place(p *pop) {
	s.prepare(p)
	i := s.made
	s.made++
	addr := fmt.Sprintf("%s.%d", s.fabric.subnet, i+1)
	p.netns = fmt.Sprintf("ep%d-%d", os.Getpid(), s.first+i)
	err := ip("netns", "add", p.netns)
	if err == nil {
		s.t.Cleanup(func() {
			if err := ip("netns", "del", p.netns); err != nil {
				s.t.Error(err)
			}
		})
		err = errors.Join(ip("-n", p.netns, "link", "set", "lo", "up"), s.fabric.plug(p.netns, "eth0", i, netip.MustParseAddr(addr)))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	p.token = newKey()
	for name, port := range map[string]string{"LISTEN": "8080", "API": "8180", "GOSSIP": "7946", "SYNC": "7947"} {
		p.set("EDGEPROXY_"+name+"_ADDR", addr+":"+port)
	}
	p.set("EDGEPROXY_API_TOKEN", p.token)
	if i > 0 {
		p.set("EDGEPROXY_JOIN", s.fabric.subnet+".1")
	}
}
