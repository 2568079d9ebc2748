package proxy

import (
	"net"
	"testing"
	"time"
)

func TestBacklog(t *testing.T) {
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	want := func(n int) {
		t.Helper()
		got, err := Backlog(ln)
		// The client's side of a handshake is done first.
		for end := time.Now().Add(10 * time.Second); got != n && err == nil && time.Now().Before(end); got, err = Backlog(ln) {
			<-time.After(time.Millisecond)
		}
		if got != n || err != nil {
			t.Errorf("%d wait, %v; want %d", got, err, n)
		}
	}
	want(0)
	for n := 1; n <= 3; n++ {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		want(n)
	}
	for n := 2; n >= 0; n-- {
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		want(n)
	}
}
