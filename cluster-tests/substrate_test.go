package clustertests

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/edgeproxy/edgeproxy/internal/mockbackend"
)

// substrate is where the POPs of a scenario run and what can be done to them
// there. A substrate belongs to one scenario; what it made goes with the test.
type substrate interface {
	// refuses says why a fault cannot be played here, "" where it can.
	refuses(fault string) string
	// raise starts n POPs and waits until they are a mesh.
	raise(n int) *mesh
	// add makes one more POP, and starts it.
	add(m *mesh) *pop
	// power brings a POP's process to a state: run, stop, kill, pause, resume; or
	// another one into its place: upgrade.
	power(p *pop, to string) error
	// change makes the link from one POP to another better or worse, heal all as at first.
	change(from, to int, f func(*link)) error
	heal() error
	// backends are the seed's nine, run until the end and known to the POPs.
	backends(m *mesh) (map[string]netip.AddrPort, error)
	// backend stops one of them, or starts it again where it was.
	backend(id string, up bool) error
	// call opens n connections at a time to a POP, each from the next address
	// of a network, and returns who answered.
	call(p *pop, from netip.Prefix, n int) ([]string, error)
	// visit is one client of a POP, who gets an answer from a backend.
	visit(p *pop) error
	// disk fills the disk of a POP, or frees what filled it.
	disk(p *pop, full bool) error
}

// processes is what loopback and namespaces have in common: a POP is a process.
type processes struct {
	t     testing.TB
	links *links
	host  string // where backends listen
	disks bool   // each POP has a disk of its own
	mocks map[string]*mock
	home  string // where those listen; nobody else is given their ports while they are down
}

// mock is a backend that can be down for a while.
type mock struct {
	id, region, addr string
	end              context.CancelFunc // nil: it is down
	ended            chan error         // its end, once
}

func (m *mock) start() (netip.AddrPort, error) {
	b, err := mockbackend.NewTCP(mockbackend.Config{ID: m.id, Region: m.region})
	if err != nil {
		return netip.AddrPort{}, err
	}
	ln, err := net.Listen("tcp", m.addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var ctx context.Context
	ctx, m.end = context.WithCancel(context.Background())
	m.addr, m.ended = ln.Addr().String(), make(chan error, 1)
	go func() { m.ended <- b.Serve(ctx, ln) }() // stop waits for it
	return addrOf(ln), nil
}

func (m *mock) stop() error {
	if m.end == nil {
		return nil
	}
	m.end()
	m.end = nil
	return <-m.ended
}

func (s *processes) refuses(fault string) string {
	if fault == "disk" && (runtime.GOOS != "linux" || os.Getuid() != 0) {
		return "a disk of its own for each POP is a tmpfs, which only root on Linux can mount"
	}
	if fault == "upgrade" && runtime.GOOS != "linux" {
		return "only Linux gives us the process that an upgrade leaves behind"
	}
	return ""
}

func (s *processes) power(p *pop, to string) error {
	signals := map[string]syscall.Signal{"stop": syscall.SIGTERM, "kill": syscall.SIGKILL, "pause": syscall.SIGSTOP, "resume": syscall.SIGCONT}
	if to == "run" {
		p.launch(s.t)
		s.wakes(p)
		p.reaches(s.t, func() error { _, _, err := p.ready(); return err })
		return nil
	}
	if to == "upgrade" {
		return p.inherit(s.t)
	}
	if err := p.cmd.Process.Signal(signals[to]); err != nil {
		return fmt.Errorf("%s: %w", to, err)
	}
	if to == "stop" || to == "kill" {
		if code := p.wait(s.t, soon); to == "stop" && code != 0 {
			return fmt.Errorf("it ended with %s after SIGTERM, want 0", p.cmd.ProcessState)
		}
	}
	return nil
}

// wakes has a POP go on at the end of the test: paused processes end in no order.
func (s *processes) wakes(p *pop) {
	s.t.Cleanup(func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) })
}

func (s *processes) change(from, to int, f func(*link)) error {
	s.links.change(from, to, f)
	return nil
}

func (s *processes) heal() error {
	s.links.heal()
	return nil
}

func (s *processes) backends(m *mesh) (map[string]netip.AddrPort, error) {
	all, rows := map[string]netip.AddrPort{}, []row{}
	s.mocks = map[string]*mock{}
	for _, region := range []string{"sa", "us", "eu"} {
		for i := range 3 {
			id := fmt.Sprintf("%s-node-%d", region, i+1)
			m := &mock{id: id, region: region, addr: cmp.Or(s.home, s.host) + ":0"}
			addr, err := m.start()
			if err != nil {
				return nil, err
			}
			s.mocks[id] = m
			s.t.Cleanup(func() {
				if err := m.stop(); err != nil {
					s.t.Error(err)
				}
			})
			r := row{id: id, app: "myapp", region: region, addr: addr, healthy: 1, weight: 1, soft: 50, hard: 100}
			if i == 0 {
				r.weight = 2
			}
			all[id], rows = r.addr, append(rows, r)
		}
	}
	return all, m.pops[0].write(insert(rows...))
}

func (s *processes) backend(id string, up bool) error {
	m := s.mocks[id]
	if m == nil {
		return fmt.Errorf("no backend %q", id)
	}
	err := m.stop()
	if up && err == nil {
		_, err = m.start()
	}
	return err
}

func (s *processes) call(p *pop, from netip.Prefix, n int) ([]string, error) {
	var out strings.Builder
	call := mockbackend.Call{Addr: local(p.listenAddr()), From: from, N: n, Timeout: soon}
	if err := call.Do(s.t.Context(), &out); err != nil {
		return nil, err
	}
	return greeters(out.String())
}

// greeters are who greeted, a line each.
func greeters(lines string) (who []string, err error) {
	for line := range strings.Lines(lines) {
		m := greeting.FindStringSubmatch(line)
		if m == nil {
			return who, fmt.Errorf("strange greeting %q", line)
		}
		who = append(who, m[1])
	}
	return who, nil
}

func (s *processes) visit(p *pop) error {
	from, _ := client("nowhere")
	v, err := p.call(from.Addr().String())
	if err != nil {
		return err
	}
	defer v.Close()
	return v.echo("hello")
}

// diskSize holds a routing database with some ten thousand rows and its WAL, and fills up soon.
const diskSize = 64 << 20

func (s *processes) disk(p *pop, full bool) error {
	filler := filepath.Join(p.dir, "filler")
	if !full {
		return os.Remove(filler)
	}
	f, err := os.Create(filler)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for size := len(block); size > 0; size /= 2 { // to the last byte
		for range 2 * diskSize / size {
			if _, err = f.Write(block[:size]); err != nil {
				break
			}
		}
	}
	if err == nil {
		return fmt.Errorf("the disk of %s has no end", p.Node)
	}
	return nil
}

// settings of POPs on every substrate.
func common(region string) []string {
	return []string{"EDGEPROXY_NODE_ID=pop-" + region, "EDGEPROXY_BINDING_TTL_SECS=600", "EDGEPROXY_PROXY_PROTOCOL=on",
		"EDGEPROXY_APP=myapp", "EDGEPROXY_DRAIN_SECS=2"}
}

// prepare gives a POP what all have.
func (s *processes) prepare(p *pop) {
	p.env = append(p.env, common(p.setting("EDGEPROXY_REGION"))...)
	p.set("EDGEPROXY_TRUSTED_PROXIES", s.host)
	if s.disks {
		mountDisk(s.t, p.dir)
	}
}

// loopback is processes on this machine, with a relay before each of them
// where loopback has addresses enough.
type loopback struct {
	processes
	relays *relays
}

func newLoopback(t testing.TB, seed uint64, disks bool) *loopback {
	l := newLinks(seed)
	return &loopback{processes{t: t, links: l, host: "127.0.0.1", home: ownHost(), disks: disks}, newRelays(t, l)}
}

func (s *loopback) refuses(fault string) string {
	switch fault {
	case "cut", "delay", "loss":
		if runtime.GOOS != "linux" {
			return "loopback has one address here, and relays need one for each POP"
		}
	}
	return s.processes.refuses(fault)
}

func (s *loopback) raise(n int) *mesh {
	m := planMesh(s.t, n)
	for _, p := range m.pops {
		s.place(p)
	}
	m.start(s.t)
	for _, p := range m.pops {
		s.keep(p)
	}
	return m
}

func (s *loopback) add(m *mesh) *pop {
	p := m.add(s.t)
	s.place(p)
	p.start(s.t)
	s.keep(p)
	return p
}

func (s *loopback) place(p *pop) {
	s.prepare(p)
	if err := s.relays.add(p); err != nil {
		s.t.Fatal(err)
	}
}

// keep has a POP on the addresses that it found, for those who talk to it.
func (s *loopback) keep(p *pop) {
	p.set("EDGEPROXY_API_ADDR", p.API)
	p.set("EDGEPROXY_LISTEN_ADDR", p.Listen)
	s.wakes(p)
}
