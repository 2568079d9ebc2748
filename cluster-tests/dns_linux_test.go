package clustertests

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDNSByGetaddrinfo: the C library finds names where /etc/resolv.conf names
// the POP, here in a mount namespace with one of its own. Port 53, and that, are root's.
func TestDNSByGetaddrinfo(t *testing.T) {
	t.Parallel()
	getent, err := exec.LookPath("getent")
	if err != nil || os.Getuid() != 0 || exec.Command("unshare", "--mount", "true").Run() != nil {
		t.Skip("needs root, getent and unshare")
	}
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.N(254), rand.N(256), 1+rand.N(254))
	p := startPOP(t, shopRows(), "EDGEPROXY_DNS_ADDR="+host+":53", unchecked)
	conf := filepath.Join(p.dir, "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+host+"\nsearch internal\noptions timeout:5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	find := func(args ...string) (addrs []string) {
		t.Helper()
		cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, conf, getent}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("getent %q: %v\n%s", args, err, out)
		}
		for line := range strings.Lines(string(out)) {
			addrs = append(addrs, strings.Fields(line)[0])
		}
		slices.Sort(addrs)
		return slices.Compact(addrs)
	}
	for _, name := range []string{"shop.internal", "shop"} { // by the search list, too
		if got, want := find("ahosts", name), []string{"10.50.1.1", "10.50.3.1", "fd50:ed9e:0:2::1"}; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if got, want := find("ahostsv6", "us.shop.internal"), []string{"fd50:ed9e:0:2::1"}; !slices.Equal(got, want) {
		t.Errorf("by IPv6: %v, want %v", got, want)
	}
	if got := find("hosts", "10.50.3.1"); !slices.Equal(got, []string{"10.50.3.1"}) {
		t.Errorf("the name of an address: %v", got)
	}
}

// TestDNSSocketActivation: systemd's sockets are served, whatever the setting says.
func TestDNSSocketActivation(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	defer ln.Close()
	conn, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tcp, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := conn.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	p := newPOP(t, unchecked)
	p.wrap = func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=dns:dnsudp exec "$0" "$@"`}, cmd.Args...)
		cmd.Path, cmd.ExtraFiles = "/bin/sh", []*os.File{tcp, udp}
	}
	p.seed(t, shopRows()...)
	p.start(t)
	if p.DNS != ln.Addr().String() {
		t.Errorf("it answers at %q, want %s", p.DNS, ln.Addr())
	}
	for _, byTCP := range []bool{false, true} {
		if got := p.dig(t, lookup{name: "nearest.shop.internal", qtype: "A", tcp: byTCP}); got != "10.50.1.1" {
			t.Errorf("tcp %v: %q", byTCP, got)
		}
	}
}

// TestDNSHalfActivated: one of systemd's two sockets is no DNS server, and it is
// said why there is none.
func TestDNSHalfActivated(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	defer ln.Close()
	tcp, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	p := newPOP(t)
	p.wrap = func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=dns exec "$0" "$@"`}, cmd.Args...)
		cmd.Path, cmd.ExtraFiles = "/bin/sh", []*os.File{tcp}
	}
	p.start(t)
	p.expectLog(t, "DNS is off", "dnsudp")
	if lines := p.log.lines("DNS is off"); p.DNS != "" || len(lines) != 1 || !strings.Contains(lines[0], "dnsudp") {
		t.Errorf("DNS at %q, said %q", p.DNS, lines)
	}
}
