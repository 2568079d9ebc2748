package proxy

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// slowFlow is a writer that offers all it can and a reader of 1 kB/s.
type slowFlow struct {
	from, to      *net.TCPConn
	written, read int64
	err           error
}

// run lasts so long, and ends both connections.
func (f *slowFlow) run(length time.Duration) {
	end := time.Now().Add(length)
	var writing sync.WaitGroup
	writing.Go(func() {
		s, chunk := newStream(3), make([]byte, 64<<10)
		_ = f.from.SetWriteDeadline(end)
		for {
			s.read(chunk)
			n, err := f.from.Write(chunk)
			f.written += int64(n)
			if err != nil {
				return // the time is over, or the reader finds out
			}
		}
	})
	_ = f.to.SetReadDeadline(end.Add(patience))
	s, b := newStream(3), make([]byte, 50)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ; time.Now().Before(end) && f.err == nil; <-tick.C {
		n, err := f.to.Read(b)
		f.read += int64(n)
		if f.err = err; !s.matches(b[:n]) {
			f.err = errors.New("other bytes than were sent")
		}
	}
	writing.Wait()
}

// most is the third figure of a file such as tcp_rmem: bytes.
func most(t *testing.T, file string) int64 {
	t.Helper()
	body, err := os.ReadFile("/proc/sys/net/ipv4/" + file)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.Fields(string(body))[2], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSlowReaders: those who read 1 kB/s make the writers wait. What is in
// flight is in the kernel's buffers and one pipe, which are bounded, and the
// relay's own memory stays what it was.
func TestSlowReaders(t *testing.T) {
	const flows = 8
	const ownMost = 2 << 20 // of memory that the relay may grow by: a fraction of what is offered to one flow
	lasts := time.Duration(often(1, 30)) * time.Second
	inFlight := 2*(most(t, "tcp_wmem")+most(t, "tcp_rmem")) + pipeSize
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			t.Parallel()
			b := newBackend(t, nil)
			c := startChild(t, impl.name, b.addr)
			for range 3 { // of what it keeps for later it has some, and the code has been read
				client, server := dial(t, c.addr), b.next(t)
				for _, f := range []*slowFlow{{from: client, to: server}, {from: server, to: client}} {
					f.run(50 * time.Millisecond)
				}
			}
			before := c.usage(t)
			all := make([]*slowFlow, flows)
			var running sync.WaitGroup
			for i := range all {
				f := &slowFlow{from: dial(t, c.addr), to: b.next(t)}
				if i%2 > 0 {
					f.from, f.to = f.to, f.from
				}
				all[i] = f
				running.Go(func() { f.run(lasts) })
			}
			running.Wait()
			after := c.usage(t)
			var offered int64
			for i, f := range all {
				if f.err != nil || f.read == 0 {
					t.Errorf("flow %d: %d bytes read, %v", i, f.read, f.err)
				}
				if n := f.written - f.read; n > inFlight {
					t.Errorf("flow %d: %d bytes in flight, want at most %d", i, n, inFlight)
				}
				offered += f.written
			}
			grown := after.RSS - before.RSS
			t.Logf("%d MB taken of %d writers in %v; resident memory %+d kB; %d kB in pipes", offered>>20, flows, lasts, grown>>10, (after.Piped-before.Piped)>>10)
			if !raceEnabled && grown > ownMost {
				t.Errorf("resident memory grew by %d bytes with %d in flight, want at most %d", grown, offered, ownMost)
			}
			if n := after.Piped - before.Piped; n > flows*pipeSize {
				t.Errorf("%d bytes in pipes for %d flows, want at most %d", n, flows, flows*pipeSize)
			}
		})
	}
}
