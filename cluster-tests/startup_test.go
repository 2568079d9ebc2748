package clustertests

import (
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// freeAddress is one where nobody listens now. On Linux it is on 127.0.0.3, for
// on 127.0.0.1 any other test may be given the port meanwhile. Connects to it come
// from 127.0.0.2: one from the same address may be given the same port as its
// own, and reach itself.
func freeAddress(t testing.TB) string {
	t.Helper()
	host := "127.0.0.1"
	if runtime.GOOS == "linux" { // where it is this machine as well
		host = "127.0.0.3"
	}
	for {
		ln, err := net.Listen("tcp", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln.Addr().String()
		ln.Close()
		if _, given := givenAddresses.LoadOrStore(addr, true); !given {
			return addr
		}
	}
}

// givenAddresses are those that freeAddress has returned: the kernel may choose
// a port again that was let go a moment ago.
var givenAddresses sync.Map

// TestStartUp: how long after exec the first connection is accepted, and how
// long until it is served. It runs beside no other test, because it measures.
func TestStartUp(t *testing.T) {
	const rounds = 10
	p := newPOP(t)
	p.seed(t, startBackends(t, "sa")...)
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: soon}
	var accepted, served []time.Duration
	for range rounds {
		addr := freeAddress(t)
		p.env = append(p.env, "EDGEPROXY_LISTEN_ADDR="+addr)
		began := time.Now()
		p.launch(t)
		var c net.Conn
		for {
			var err error
			if c, err = from.Dial("tcp", addr); err == nil {
				break
			}
			if time.Since(began) > soon {
				t.Fatal(err)
			}
			<-time.After(200 * time.Microsecond)
		}
		accepted = append(accepted, time.Since(began))
		if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		served = append(served, time.Since(began))
		c.Close()
		p.stop(t)
	}
	t.Logf("after exec: first connection accepted %s, served %s (medians of %d)", median(accepted), median(served), rounds)
	if m := median(served); m > 10*time.Second {
		t.Errorf("the first connection was served after %s", m)
	}
}
