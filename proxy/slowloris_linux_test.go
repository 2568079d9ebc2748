package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// slowloris are clients that take places and give nothing for them. In turn
// they send nothing, a byte now and then, or half a PROXY header.
type slowloris struct {
	to    netip.AddrPort
	conns []*net.TCPConn
	cut   int // of those that owe a header, how many the relay has let go
}

// slowness is how long each waits between two things that it does.
const slowness = 4 * time.Second

const (
	silence = iota
	drip
	halfHeader
	manners
)

func (s *slowloris) dial(i int) error {
	d := net.Dialer{Timeout: patience}
	if i%manners == halfHeader {
		d.LocalAddr = &net.TCPAddr{IP: owesHeader.AsSlice()}
	}
	c, err := d.Dial("tcp", s.to.String())
	if err != nil {
		return err
	}
	s.conns[i] = c.(*net.TCPConn)
	_ = c.SetDeadline(time.Now().Add(patience))
	return s.act(i)
}

// act does what a client does when it is its turn.
func (s *slowloris) act(i int) error {
	text := [manners]string{drip: "x", halfHeader: "PROXY TCP4 192.0.2.1"}[i%manners]
	_, err := io.WriteString(s.conns[i], text)
	return err
}

// again is act for one that has been there for a while. One that owes a header
// comes anew when it has been let go.
func (s *slowloris) again(i int) error {
	if i%manners != halfHeader {
		return s.act(i)
	}
	if !hasEnded(s.conns[i]) {
		return nil
	}
	s.cut++
	s.conns[i].Close()
	return s.dial(i)
}

// hasEnded says whether there is something to read, which of these can only be an end.
func hasEnded(c *net.TCPConn) (ended bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	_ = raw.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		ended = err == nil && n > 0
	})
	return ended
}

// run goes on until stop is closed; everybody is there when ready is.
func (s *slowloris) run(stop <-chan struct{}, ready chan<- struct{}) (err error) {
	defer func() {
		for _, c := range s.conns {
			if c != nil {
				_ = c.SetLinger(0)
				c.Close()
			}
		}
	}()
	for i := range s.conns {
		err = errors.Join(err, s.dial(i))
	}
	close(ready)
	tick := time.NewTicker(slowness / time.Duration(len(s.conns))) // one after the other: no bursts
	defer tick.Stop()
	for i := 0; err == nil; i = (i + 1) % len(s.conns) {
		select {
		case <-stop:
			return nil
		case <-tick.C:
			err = s.again(i)
		}
	}
	<-stop
	return err
}

// visits are what some good clients get: how long a connection with one
// question and its answer takes, of each.
func visits(t *testing.T, to netip.AddrPort, length time.Duration) (took []time.Duration) {
	const clients, every = 4, 10 * time.Millisecond
	var all sync.WaitGroup
	var mu sync.Mutex
	for range clients {
		all.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for end := time.Now().Add(length); time.Now().Before(end); <-tick.C {
				d, err := visit(to)
				if err != nil {
					t.Errorf("a good client: %v", err)
					return
				}
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	return took
}

func visit(to netip.AddrPort) (time.Duration, error) {
	began := time.Now()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(began.Add(patience))
	var b [requestSize]byte
	if _, err := c.Write(b[:]); err != nil {
		return 0, err
	}
	_, err = io.ReadFull(c, b[:])
	return time.Since(began), err
}

// TestSlowloris: 4,000 clients that are slow on purpose keep nobody else from
// being served, and those who owe a header are let go. With
// EDGEPROXY_TEST=soak the good clients' p99, with them and without in turn, is
// at most a fifth higher; as other programs may be in the way, in one of three tries.
func TestSlowloris(t *testing.T) {
	const want = 1.2
	slow, rounds := often(600, 4000), often(1, 7)
	length := time.Duration(often(300, 4000)) * time.Millisecond
	needDescriptors(t, 2*slow+1000)
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			b := newBackend(t, func(c *net.TCPConn) {
				var buf [requestSize]byte
				for n, err := 0, error(nil); err == nil; _, err = c.Write(buf[:n]) {
					if n, err = c.Read(buf[:]); err != nil {
						return
					}
				}
			})
			c := startChild(t, impl.name, b.addr)
			visits(t, c.addr, length)
			for try := 1; ; try++ {
				ratio := besides(t, c.addr, slow, rounds, length)
				switch {
				case t.Failed() || !wanted("soak") || ratio <= want:
					return
				case try == 3:
					t.Errorf("the good clients' p99 is %.2f of what it is alone, want at most %.2f", ratio, want)
					return
				}
			}
		})
	}
}

// besides is the median of the ratios of p99 with the slow clients and without.
func besides(t *testing.T, to netip.AddrPort, slow, rounds int, length time.Duration) float64 {
	var ratios []float64
	for round := range rounds {
		var p99 [2]time.Duration
		measure := func(with int) {
			visits(t, to, length/4) // while those who came or went just now keep everybody busy
			took := visits(t, to, length)
			if len(took) == 0 {
				t.Fatal("no good client was served")
			}
			p99[with] = took[len(took)*99/100]
			t.Logf("round %d, %d slow: p50 %v p99 %v of %d", round, with*slow, took[len(took)/2], p99[with], len(took))
		}
		if round%2 == 0 {
			measure(0)
		}
		stop, ready := make(chan struct{}), make(chan struct{})
		s := &slowloris{to: to, conns: make([]*net.TCPConn, slow)}
		var acting sync.WaitGroup
		var err error
		acting.Go(func() { err = s.run(stop, ready) })
		<-ready
		measure(1)
		close(stop)
		if acting.Wait(); err != nil {
			t.Errorf("slow clients: %v", err)
		}
		if wanted("soak") && s.cut == 0 {
			t.Error("nobody who owes a header was let go")
		}
		if round%2 == 1 {
			measure(0)
		}
		if t.Failed() {
			return 0
		}
		ratios = append(ratios, float64(p99[1])/float64(p99[0]))
	}
	slices.Sort(ratios)
	t.Logf("p99 with %d slow clients is %.2f of what it is without (median of %.2f)", slow, ratios[len(ratios)/2], ratios)
	return ratios[len(ratios)/2]
}

// needDescriptors fails the test where the process cannot have so many.
func needDescriptors(t *testing.T, n int) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < uint64(n) {
		t.Fatalf("this test needs %d descriptors (ulimit -n), there are %d", n, limit.Cur)
	}
}
