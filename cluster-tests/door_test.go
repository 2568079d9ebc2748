package clustertests

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// door is a backend's address that can be shut and opened again: closed, its
// port refuses, and what came through is cut, as where the process is killed.
type door struct {
	addr netip.AddrPort

	mu     sync.Mutex
	ln     net.Listener
	open   map[net.Conn]bool
	greets int // connections that stayed to be greeted: clients, not checks
	peak   int // the most that were open at once
}

func newDoor(t testing.TB) *door {
	t.Helper()
	d := &door{open: map[net.Conn]bool{}}
	ln := listenKept(t)
	d.addr = addrOf(ln)
	d.serve(ln)
	t.Cleanup(d.shut)
	return d
}

func (d *door) serve(ln net.Listener) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ln = ln
	go func() { // ends with the listener
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			shut := d.ln != ln
			if !shut {
				d.open[c] = true
				d.peak = max(d.peak, len(d.open))
			}
			d.mu.Unlock()
			if shut {
				c.Close()
				continue
			}
			if _, err := fmt.Fprintf(c, "Backend: %s | Region: sa | Your IP: x\n", d.addr); err == nil {
				go d.hold(c)
			}
		}
	}()
}

// hold reads until the other side goes. A check goes at once.
func (d *door) hold(c net.Conn) {
	_, err := c.Read(make([]byte, 1))
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil || !strings.Contains(err.Error(), "reset") {
		d.greets++
	}
	c.Close()
	delete(d.open, c)
}

func (d *door) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ln != nil {
		d.ln.Close()
		d.ln = nil
	}
	for c := range d.open {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

func (d *door) reopen(t testing.TB) {
	t.Helper()
	ln, err := net.Listen("tcp", d.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	d.serve(ln)
}
