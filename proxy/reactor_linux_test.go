package proxy

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// descriptorsTo finds this process's sockets of connections whose peer is at a port.
func descriptorsTo(t *testing.T, port int) (fds []int) {
	t.Helper()
	links, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if target, _ := os.Readlink(filepath.Join("/proc/self/fd", l.Name())); !strings.HasPrefix(target, "socket:") {
			continue
		}
		fd, _ := strconv.Atoi(l.Name())
		if sa, err := unix.Getpeername(fd); err == nil {
			if in, ok := sa.(*unix.SockaddrInet4); ok && in.Port == port {
				fds = append(fds, fd)
			}
		}
	}
	return fds
}

// TestReactorSocketOptions: both sockets send at once, and notice a peer that
// vanished; the backend's from its second write on, and after a moment.
func TestReactorSocketOptions(t *testing.T) {
	b := newBackend(t, nil)
	r := start(t, implementations[1].make, setup{Config: quickSweep, targets: b.one()})
	client, server := pair(t, r, b)
	for range 2 {
		send(t, client, "x")
		expect(t, server, "x")
	}
	for side, port := range map[string]int{"client": client.LocalAddr().(*net.TCPAddr).Port, "backend": int(b.addr.Port())} {
		fds := descriptorsTo(t, port)
		if len(fds) != 1 {
			t.Fatalf("%d sockets of the relay towards the %s, want 1", len(fds), side)
		}
		for _, o := range wantedOptions {
			eventually(t, o.name+" of the "+side+"'s socket", func() bool {
				got, err := unix.GetsockoptInt(fds[0], o.level, o.option)
				return err == nil && got == o.want
			})
		}
	}
}

// TestSharedListener: where the address cannot have a listener for each worker
// all accept from one, and none is left with many more than another.
func TestSharedListener(t *testing.T) {
	const clients = 100
	b := newBackend(t, echo)
	r := start(t, implementations[1].make, setup{targets: b.one()})
	srv := r.relayUnderTest.(counting).Server
	ln := listen(t)
	ctx, stop := context.WithCancel(context.Background())
	g := &group{server: srv, front: front{port: App(""), cut: ctx}, alone: true}
	if err := g.open(ln, nil); err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	for _, w := range g.workers {
		g.running.Add(1)
		serving.Go(func() { defer g.running.Done(); w.run() })
	}
	defer serving.Wait()
	defer ln.Close()
	defer func() { stop(); g.enter(cutting) }()
	var conns []*net.TCPConn
	for range clients {
		conns = append(conns, dial(t, ln.Addr().(*net.TCPAddr).AddrPort()))
	}
	for _, c := range conns {
		roundTrip(t, c)
	}
	most, least := int64(0), int64(clients)
	for _, w := range g.workers {
		n := w.count.active.Load()
		most, least = max(most, n), min(least, n)
	}
	if most > least+least/8+10 {
		t.Errorf("of %d connections one worker has %d and another %d", clients, most, least)
	}
}

// TestListenGroup: every worker's listener gets a share of the connections,
// the first one, which is in the runtime's poller too, none.
func TestListenGroup(t *testing.T) {
	const n, clients = 3, 60
	ln := listen(t)
	defer ln.Close()
	fds, err := listenGroup(ln, nil, n)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(fds)
	for range clients {
		dial(t, ln.Addr().(*net.TCPAddr).AddrPort())
	}
	counts := make([]int, n)
	var addr unix.RawSockaddrAny
	taken := 0
	eventually(t, "all are accepted", func() bool {
		for i, fd := range fds {
			for {
				conn, errno := accept(fd, &addr)
				if errno != 0 {
					break
				}
				closeFD(conn)
				counts[i]++
				taken++
			}
		}
		return taken == clients
	})
	for i, c := range counts {
		if c == 0 {
			t.Errorf("listener %d got none of %d connections: %v", i, clients, counts)
		}
	}
	if backlog, err := Backlog(ln); err != nil || backlog != 0 {
		t.Errorf("%d wait at the first listener, %v; want none", backlog, err)
	}
}

// TestReactorAllocates nothing for a connection, once there have been some.
func TestReactorAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	var serving sync.WaitGroup
	addr, stop := rawBackend(t, &serving)
	t.Cleanup(func() { stop(); serving.Wait() })
	r := start(t, implementations[1].make, setup{targets: []target{{id: "b", addr: addr}}, quiet: true, ttl: time.Minute})
	buf := make([]byte, requestSize)
	to := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(r.addr.Port())}
	visit := func() {
		fd := rawSocket(t)
		defer unix.Close(fd)
		if err := unix.Connect(fd, to); err != nil {
			t.Fatal(err)
		}
		exchange(t, fd, buf)
	}
	for range 100 {
		visit()
	}
	if each := testing.AllocsPerRun(500, visit); each > 0.9 {
		t.Errorf("%.2f allocations for each connection, want none", each)
	}
}

// TestGivenAwayIsNotWatched: a server that drains hears nothing of listeners
// that another process has, whose clients would wake it as long as it lasts.
func TestGivenAwayIsNotWatched(t *testing.T) {
	b := newBackend(t, echo)
	r := start(t, implementations[1].make, setup{Config: Config{Settings: Settings{Drain: time.Hour}}, targets: b.one(), ln: listen(t)})
	srv := r.relayUnderTest.(counting).Server
	client := dial(t, r.addr)
	roundTrip(t, client)
	var served *net.TCPListener
	srv.serving.mu.Lock()
	for served = range srv.serving.all {
	}
	srv.serving.mu.Unlock()
	others, err := srv.Files(served) // which go on, as in another process
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, f := range others {
			f.Close()
		}
	}()
	var workers []*worker
	srv.groups.mu.Lock()
	for g := range srv.groups.all {
		workers = append(workers, g.workers...)
	}
	srv.groups.mu.Unlock()
	srv.GiveAway(served)
	r.end()
	eventually(t, "only the bell and the connection's sockets are watched", func() bool {
		most := 0 // of the one who has the connection; the others have ended
		for _, w := range workers {
			info, _ := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(w.epfd))
			most = max(most, strings.Count(string(info), "tfd:"))
		}
		return most == 3
	})
	roundTrip(t, client)
}
