package clustertests

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestSocketActivation: systemd's sockets are served, and so is who has
// connected before the POP was there.
func TestSocketActivation(t *testing.T) {
	t.Parallel()
	p := newPOP(t, noAffinity, "EDGEPROXY_LISTEN_ADDR=192.0.2.1:1") // which nobody can bind
	var files []*os.File
	var addrs []string
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files, addrs = append(files, f), append(addrs, ln.Addr().String())
	}
	early, err := net.Dial("tcp", addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	p.wrap = func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=listen:api exec "$0" "$@"`}, cmd.Args...)
		cmd.Path, cmd.ExtraFiles = "/bin/sh", files
	}
	p.seed(t, startBackends(t, "sa")...)
	p.start(t)
	if p.Listen != addrs[0] || p.API != addrs[1] {
		t.Errorf("it listens on %s and %s, want %s", p.Listen, p.API, strings.Join(addrs, " and "))
	}
	p.goes(t, "")
	if n, err := early.Read(make([]byte, 100)); err != nil {
		t.Errorf("who connected before read %d bytes, %v; want a greeting", n, err)
	}

	early.Close() // or the drain waits for it

	// They are systemd's: a client that comes while nobody serves waits for who does next.
	p.stop(t)
	between, err := net.Dial("tcp", addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer between.Close()
	p.start(t)
	if n, err := between.Read(make([]byte, 100)); err != nil {
		t.Errorf("who connected in between read %d bytes, %v; want a greeting", n, err)
	}
	for range 20 {
		p.goes(t, "")
	}

	p.upgrade(t) // by which they pass on, too
	for range 20 {
		p.goes(t, "")
	}
}

// TestInheritedNothing: a variable that somebody else has set is named.
func TestInheritedNothing(t *testing.T) {
	t.Parallel()
	newPOP(t, "HANDOVER_TO_EDGEPROXY=listen").refuses(t, 1, "HANDOVER_TO_EDGEPROXY", "unset it")
}
