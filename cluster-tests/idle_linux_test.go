package clustertests

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// descriptors is how many the process has open.
func (p *pop) descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// resident is the memory of the process in bytes.
func (p *pop) resident(t testing.TB) int {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// TestIdleConnections: 5,000 of them cost two descriptors and at most 1 KB
// each, 12 KB with goroutines, and all are alive afterwards. It runs beside no other test.
func TestIdleConnections(t *testing.T) {
	const (
		connections   = 5000
		fewOfItsOwn   = 16 // descriptors that do not grow with connections: a log, a request
		neededByTests = 2*connections + 1000
	)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < neededByTests {
		limit.Cur = neededByTests
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatalf("this test needs %d descriptors (ulimit -n), the hard limit is %d: %v", neededByTests, limit.Max, err)
		}
	}

	p := startPOP(t, startBackends(t, "sa"), noAffinity, "EDGEPROXY_LOG_LEVEL=info")
	mostMemory := 1 << 10 // bytes a connection
	if p.setting(relayPath) == "goroutine" {
		mostMemory = 12 << 10
	}
	warm, err := p.openMany(200)
	closeAll(warm)
	if err != nil {
		t.Fatal(err)
	}
	p.settled(t)
	fdsBefore, memoryBefore := p.descriptors(t), p.resident(t)

	visits, err := p.openMany(connections)
	defer closeAll(visits)
	if err != nil {
		t.Fatal(err)
	}
	if n := p.status(t).Connections; n != connections {
		t.Errorf("status counts %d connections, want %d", n, connections)
	}
	fds := p.descriptors(t) - fdsBefore
	if fds < 2*connections-fewOfItsOwn || fds > 2*connections+fewOfItsOwn {
		t.Errorf("%d connections took %d descriptors, want 2 each", connections, fds)
	}
	each := func() int { return (p.resident(t) - memoryBefore) / connections }
	first := each()
	if raceDetector {
		t.Logf("%d idle connections: %.4f descriptors each; memory means nothing with the race detector", connections, float64(fds)/connections)
	} else {
		eventually(t, soon, func() error { // what opening them left behind goes by and by
			if n := each(); n > mostMemory {
				return fmt.Errorf("%d bytes of memory a connection, want at most %d", n, mostMemory)
			}
			return nil
		})
		t.Logf("%d idle connections: %.4f descriptors and %.1f KB of memory each (%.1f KB at first)",
			connections, float64(fds)/connections, float64(each())/1024, float64(first)/1024)
	}

	for i, v := range visits {
		if err := v.echo("still there?"); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	one := p.visit(t, "")
	one.alive(t)
	closeAll(append(visits, one))
	p.settled(t)
	eventually(t, soon, func() error {
		if n := p.descriptors(t); n > fdsBefore+fewOfItsOwn {
			return fmt.Errorf("%d descriptors after all have gone, %d before", n, fdsBefore)
		}
		return nil
	})
}
