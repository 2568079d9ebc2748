package device

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/vishvananda/netlink"
)

// isolate runs the tests once more in a network namespace of their own, where
// EDGEPROXY_TEST=netns asks for real interfaces, and ends with their status:
// so they meet no firewall, and leave nothing to the machine when they are killed.
func isolate() {
	asked := os.Getenv("EDGEPROXY_TEST")
	if !slices.Contains(strings.Split(asked, ","), "netns") || os.Getuid() != 0 {
		return // needsNetns says so
	}
	if strings.HasSuffix(asked, ",inside") {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err == nil && !forwardsIPv6() { // Linux before 6.17 cannot do so for one interface
			err = os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0o644)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			fmt.Fprintln(os.Stderr, "network namespace:", err)
			os.Exit(1)
		}
		return
	}
	c := exec.Command(os.Args[0], os.Args[1:]...)
	c.Env = append(os.Environ(), "EDGEPROXY_TEST="+asked+",inside")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := c.Run(); c.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "network namespace:", err)
		os.Exit(1)
	}
	os.Exit(c.ProcessState.ExitCode())
}

// needsNetns skips a test of real interfaces, and fails where it was asked for
// and cannot be: EDGEPROXY_TEST=netns go test ./wg/device, as root.
func needsNetns(t testing.TB) {
	t.Helper()
	if !slices.Contains(strings.Split(os.Getenv("EDGEPROXY_TEST"), ","), "netns") {
		t.Skip("EDGEPROXY_TEST=netns runs this")
	}
	if os.Getuid() != 0 {
		t.Fatal("EDGEPROXY_TEST=netns makes interfaces, which needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatal("EDGEPROXY_TEST=netns needs iproute2: apt-get install iproute2")
	}
	if _, err := os.Stat(tunPath); err != nil {
		t.Fatalf("EDGEPROXY_TEST=netns needs TUN devices: %v", err)
	}
}

// testInterface is a name that no other test has at the time.
func testInterface(n int) string { return fmt.Sprintf("ept%d.%d", os.Getpid()%1000000, n) }

func onTUN(n int) func(*Config) {
	return func(cfg *Config) { cfg.Mode, cfg.Interface = TUN, testInterface(n) }
}

func ip(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func noInterface(t testing.TB, name string) {
	t.Helper()
	if l, err := linkNamed(name); l != nil || err != nil {
		t.Errorf("interface %s is still there: %v", name, err)
	}
}

func TestTUN(t *testing.T) {
	needsNetns(t)
	// The TUN side is the kernel's, the other our own stack: both ends on one machine.
	a, b := newPOP(t, 201, onTUN(1), forwards), newPOP(t, 202)
	join(t, a, b)
	b.echo(t, 80)
	for family, at := range b.families(80) {
		t.Run(family, func(t *testing.T) {
			c, err := a.DialContext(within(t, 20*time.Second), "tcp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			asks(t, c, strings.Repeat("through the kernel ", 5000))
		})
	}
	l, err := a.Listen(t.Context(), a.at(0))
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			accepted <- c
			io.Copy(c, c)
		}
	}()
	asks(t, b.dialTCP(t, netip.MustParseAddrPort(l.Addr().String())), "from the other side")
	l.Close()
	(<-accepted).Close() // the kernel's connections survive the interface

	name := testInterface(1)
	if got, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/forwarding"); err != nil || got[0] != '1' {
		t.Errorf("forwarding %q, %v", got, err)
	}
	if err := a.SetForwarding(false); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/forwarding"); err != nil || got[0] != '0' {
		t.Errorf("forwarding %q, %v", got, err)
	}
	// The first address of a network takes the later ones with it.
	if err := a.SetAddresses([]netip.Prefix{netip.MustParsePrefix("10.50.0.211/16"), netip.MustParsePrefix("fd50::211/48")}); err != nil {
		t.Fatal(err)
	}
	has := ip(t, "addr", "show", "dev", name)
	for _, want := range []string{"10.50.0.211/16", "fd50::211/48", "mtu 1420"} {
		if !strings.Contains(has, want) {
			t.Errorf("want %s in\n%s", want, has)
		}
	}
	if strings.Contains(has, "10.50.0.201") || strings.Contains(has, "fd50::201") || strings.Contains(has, "fd50::c9") {
		t.Errorf("old addresses in\n%s", has)
	}
	if _, err := os.Stat(filepath.Join(socketDir, name+".sock")); err != nil {
		t.Errorf("no socket for wg(8): %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	noInterface(t, name)
	if _, err := os.Stat(filepath.Join(socketDir, name+".sock")); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestTUNIsDeleted(t *testing.T) {
	needsNetns(t)
	a := newPOP(t, 203, onTUN(2))
	ip(t, "link", "del", testInterface(2))
	select {
	case err := <-a.Failed():
		if !strings.Contains(err.Error(), testInterface(2)) {
			t.Errorf("error %q does not name the interface", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("not noticed")
	}
}

func TestLinkWatch(t *testing.T) {
	needsNetns(t)
	name := testInterface(3)
	for _, before := range []bool{false, true} {
		ip(t, "tuntap", "add", "dev", name, "mode", "tun")
		link, err := linkNamed(name)
		if err != nil || link == nil {
			t.Fatal(err)
		}
		if before {
			ip(t, "link", "del", name)
		}
		failed := make(chan error, 1)
		w, err := watchLink(&systemLink{name: name, link: link}, func(err error) { failed <- err })
		if err != nil {
			t.Fatal(err)
		}
		if !before {
			ip(t, "link", "del", name)
		}
		select {
		case <-failed:
		case <-time.After(20 * time.Second):
			t.Errorf("not noticed; deleted before it was watched: %v", before)
		}
		w.stop()
	}
}

// TestLinkWatchGivesUp: the end of the updates is not that of the watch.
func TestLinkWatchGivesUp(t *testing.T) {
	needsNetns(t)
	name := testInterface(13)
	ip(t, "tuntap", "add", "dev", name, "mode", "tun")
	link, err := linkNamed(name)
	if err != nil || link == nil {
		t.Fatal(err)
	}
	w := &linkWatch{link: &systemLink{name: name, link: link}, done: make(chan struct{})}
	failed, ended := make(chan error, 1), make(chan netlink.LinkUpdate)
	close(ended)
	w.running.Go(func() { w.run(ended, func(err error) { failed <- err }) })
	ip(t, "link", "del", name)
	select {
	case <-failed:
	case <-time.After(20 * time.Second):
		t.Error("not noticed")
	}
	w.stop()
}

func TestForeignInterfaceIsLeftAlone(t *testing.T) {
	needsNetns(t)
	name := testInterface(4)
	ip(t, "tuntap", "add", "dev", name, "mode", "tun")
	defer ip(t, "link", "del", name)
	ip(t, "addr", "add", "10.51.0.1/32", "dev", name)
	before := ip(t, "addr", "show", "dev", name)
	cfg := Config{PrivateKey: newKeys(t).private, Interface: name, Node: "pop-test"}
	for _, cfg.Mode = range []Mode{TUN, Kernel} {
		d, err := Open(cfg, zerolog.Nop())
		if err == nil {
			d.Close()
			t.Fatal("opened")
		}
		want := "interface " + name + ` exists and is not ours: name another with --wg-interface, or remove it with "ip link del ` + name + `"`
		if !errors.Is(err, ErrForeign) || err.Error() != want {
			t.Errorf("%s: %q, want %q", cfg.Mode, err, want)
		}
	}
	// An address that another interface has.
	cfg.Mode, cfg.Interface, cfg.Addresses = TUN, testInterface(5), []netip.Prefix{netip.MustParsePrefix("10.51.0.1/16")}
	if d, err := Open(cfg, zerolog.Nop()); err == nil {
		d.Close()
		t.Error("opened")
	} else if !errors.Is(err, ErrAddress) || !strings.Contains(err.Error(), name) {
		t.Errorf("error %q, want it to name %s", err, name)
	}
	noInterface(t, testInterface(5))
	if after := ip(t, "addr", "show", "dev", name); after != before {
		t.Errorf("it was\n%sand is\n%s", before, after)
	}
}

func TestTUNPortTaken(t *testing.T) {
	needsNetns(t)
	a := newPOP(t, 204)
	cfg := Config{Mode: TUN, PrivateKey: newKeys(t).private, Interface: testInterface(6), Port: a.Port()}
	if d, err := Open(cfg, zerolog.Nop()); err == nil {
		d.Close()
		t.Error("opened")
	} else if !errors.Is(err, ErrPortTaken) {
		t.Error(err)
	}
	noInterface(t, testInterface(6))
}

func BenchmarkTUN(b *testing.B) {
	needsNetns(b)
	from, to := newPOP(b, 209, onTUN(8)), newPOP(b, 210)
	join(b, from, to)
	streamBetween(b, from, to)
}

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	hello := func(c net.Conn) { fmt.Fprint(c, "hello"); c.Close() }
	path := filepath.Join(dir, "wg0.sock")
	ask := func() (string, error) {
		c, err := new(net.Dialer).DialContext(context.Background(), "unix", path)
		if err != nil {
			return "", err
		}
		defer c.Close()
		got, err := io.ReadAll(c)
		return string(got), err
	}
	// Of a killed process: the file stays, nobody listens.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()

	s, err := openSocket(dir, "wg0", hello)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want it to be only ours", info.Mode(), err)
	}
	if got, err := ask(); got != "hello" || err != nil {
		t.Errorf("answer %q, %v", got, err)
	}
	if s2, err := openSocket(dir, "wg0", hello); err == nil {
		s2.close()
		t.Error("took the socket of a process that lives")
	}
	if got, err := ask(); got != "hello" || err != nil {
		t.Errorf("answer %q, %v", got, err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
	// Who asks and says nothing holds nothing up.
	if s, err = openSocket(dir, "wg0", func(c net.Conn) { io.Copy(io.Discard, c); c.Close() }); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := s.close(); err != nil {
		t.Error(err)
	}
}
