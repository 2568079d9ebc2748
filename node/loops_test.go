package node

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/wg"
)

func prefixesOf(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func member(name, addr, listen, status string) membership.Member {
	return membership.Member{Name: name, Addr: netip.MustParseAddrPort(addr), Status: status, Tags: map[string]string{tagRole: roleOurs, tagListen: listen}}
}

// testLoops is a POP with two addresses, and others around it.
func testLoops(front string, allow ...string) *loops {
	l := &loops{self: "us", allow: prefixesOf(allow...), looked: time.Now()}
	l.local = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")}
	l.opened(front, "0.0.0.0:8180", "10.0.0.1:7946", "[::]:7947")
	eu := member("eu", "10.0.0.2:7946", ":8080", membership.StatusAlive)
	eu.Tags[tagSync], eu.Tags[tagPorts] = "7947", "8180,8153"
	stranger := member("serf", "10.0.0.8:7946", ":8080", membership.StatusAlive)
	stranger.Tags[tagRole] = ""
	l.setMembers([]membership.Member{
		eu,
		member("inside", "10.0.0.4:7946", "127.0.0.1:8082", membership.StatusAlive), // another machine's loopback address
		member("next", "10.0.0.1:7949", "127.0.0.1:8083", membership.StatusAlive),   // this machine's
		member("ap", "10.0.0.3:7946", "10.9.9.9:9000", membership.StatusFailed),
		member("beside", "10.0.0.1:7948", ":8081", membership.StatusAlive), // on the same machine
		member("left", "10.0.0.5:7946", ":8080", membership.StatusLeft),
		member("old", "10.0.0.6:7946", "", membership.StatusAlive), // an earlier edgeproxy, which does not say
		stranger,
	}, []wg.POP{{Name: "eu", Four: netip.MustParseAddr("10.50.0.2"), Six: netip.MustParseAddr("fd50:ed9e::2")}})
	return l
}

func TestWhoseListener(t *testing.T) {
	services := []mesh.Service{{App: "web", Listen: []string{":443", "10.0.0.7:25"}}}
	for _, c := range []struct{ front, addr, pop string }{
		{"[::]:8080", "10.0.0.1:8080", "us"},
		{"0.0.0.0:8080", "127.0.0.1:8080", "us"},
		{"0.0.0.0:8080", "127.3.4.5:8080", "us"},
		{"0.0.0.0:8080", "[::1]:8080", "us"},
		{"0.0.0.0:8080", "[2001:db8::1]:8080", "us"},
		{"0.0.0.0:8080", "[::ffff:10.0.0.1]:8080", "us"},
		{"0.0.0.0:8080", "10.0.0.1:8088", ""},
		{"0.0.0.0:8080", "10.0.0.9:8080", ""},
		{"127.0.0.1:8080", "127.0.0.1:8080", "us"},
		{"127.0.0.1:8080", "127.0.0.2:8080", ""}, // another listens there
		{"127.0.0.1:8080", "10.0.0.1:8080", ""},
		{"[fe80::1%eth0]:8080", "[fe80::1]:8080", "us"},
		{"127.0.0.1:1", "10.0.0.2:8080", "eu"},
		{"127.0.0.1:1", "10.50.0.2:8080", "eu"},
		{"127.0.0.1:1", "[fd50:ed9e::2]:8080", "eu"},
		{"127.0.0.1:1", "10.0.0.2:8082", ""},
		{"127.0.0.1:1", "10.9.9.9:9000", "ap"},
		{"127.0.0.1:1", "10.0.0.3:9000", ""},
		{"127.0.0.1:1", "10.0.0.1:8081", "beside"},
		{"127.0.0.1:1", "127.0.0.1:8081", "beside"},
		{"127.0.0.1:1", "127.0.0.1:8082", ""},
		{"127.0.0.1:1", "127.0.0.1:8083", "next"},
		{"127.0.0.1:1", "[64:ff9b::10.0.0.2]:8080", "eu"},
		{"127.0.0.1:1", "[2002:a00:2::1]:8080", "eu"},
		{"127.0.0.1:1", "10.0.0.2:8180", ""}, // an operator may have its reasons
		{"127.0.0.1:1", "10.0.0.5:8080", ""},
		{"127.0.0.1:1", "10.0.0.6:8080", ""},
		{"127.0.0.1:1", "10.0.0.8:8080", ""},
		// of the service, on every POP
		{"127.0.0.1:1", "10.0.0.2:443", "eu"},
		{"127.0.0.1:1", "10.0.0.6:443", "old"},
		{"127.0.0.1:1", "10.0.0.9:443", ""},
		{"127.0.0.1:1", "10.0.0.7:25", "every POP, for the app web"},
	} {
		if got := testLoops(c.front).doors(services, time.Now()).find(netip.MustParseAddrPort(c.addr)); got != c.pop && got != "POP "+c.pop {
			t.Errorf("us listens on %s: %s is the listener of %q, want %q", c.front, c.addr, got, c.pop)
		}
	}
}

func TestRefusal(t *testing.T) {
	for _, c := range []struct{ addr, says string }{
		{"10.0.0.9:80", ""}, {"192.168.1.1:80", ""}, {"[fd00::1]:80", ""}, {"198.51.100.1:80", ""},
		{"127.0.0.1:80", "loopback"}, {"[::1]:80", "loopback"}, {"[::ffff:127.0.0.1]:80", "loopback"}, {"[64:ff9b::7f00:1]:80", "loopback"},
		{"169.254.169.254:80", "metadata"}, {"[fd00:ec2::254%eth0]:80", "metadata"}, {"[2002:a83f:8110::1]:80", "metadata"},
		{"169.254.0.1:80", "link-local"}, {"[fe80::1%eth0]:80", "link-local"}, {"0.0.0.1:80", "no address"}, {"[ff02::1]:80", "multicast"},
		{"10.0.0.1:8080", "POP us"}, {"10.0.0.1:8180", "POP us"}, {"10.0.0.1:7946", "POP us"}, {"[2001:db8::1]:7947", "POP us"}, {"[::ffff:10.0.0.1]:8180", "POP us"},
		{"10.0.0.2:8180", "POP eu"}, {"10.50.0.2:8180", "POP eu"}, {"[fd50:ed9e::2]:8153", "POP eu"}, {"10.50.0.2:7946", "POP eu"}, {"10.0.0.2:7947", "POP eu"},
		{"10.50.0.2:8181", ""}, {"10.0.0.9:8180", ""}, {"[64:ff9b::10.50.0.2]:8180", "POP eu"}, {"[64:ff9b::10.0.0.1]:8180", "POP us"},
		{"[64:ff9b:1::127.0.0.1]:80", "loopback"}, {"[64:ff9b:1:7f00:0:100::]:80", "loopback"}, {"[64:ff9b:1::7f:0:100:0]:80", "loopback"}, {"[64:ff9b:1::10.0.0.9]:80", ""},
		{"[::ffff:0:127.0.0.1]:80", "loopback"}, {"[::ffff:0:10.0.0.9]:80", ""}, {"[2001:0:102:304::5601:5601]:80", "metadata"}, {"[2001:0:102:304::f5ff:fff6]:80", ""},
		{"10.0.0.2:8080", "POP eu"}, {"10.0.0.1:9999", ""},
	} {
		at := netip.MustParseAddrPort(c.addr)
		got := testLoops("0.0.0.0:8080").refusal(nil, at)
		if c.says == "" && got != "" || !strings.Contains(got, c.says) || got != "" && !strings.Contains(got, "EDGEPROXY_ALLOW_BACKENDS") {
			t.Errorf("%s: %q, want %q", c.addr, got, c.says)
		}
		if got := testLoops("0.0.0.0:8080", "0.0.0.0/0", "::/0").refusal(nil, at); got != "" {
			t.Errorf("%s, which is allowed: %q", c.addr, got)
		}
	}
}

func TestCut(t *testing.T) {
	row := func(id, addr string, port int) []any {
		return []any{id, "web", "us", addr, int64(port), nil, nil, nil, nil, nil}
	}
	snapshot := func() *mesh.Snapshot {
		return mesh.NewSnapshot(mesh.POP{}, mesh.Rows{Backends: [][]any{
			row("a", "10.0.0.9", 80), row("b", "10.0.0.2", 8080), row("c", "10.0.0.9", 81), row("d", "10.0.0.1", 8080), row("e", "127.0.0.1", 8180),
		}}, nil)
	}
	names := func(s *mesh.Snapshot) (text string) {
		for _, b := range s.Backends {
			text += b.ID + b.POP + " "
		}
		return text
	}
	s := testLoops(":8080").cut(snapshot())
	if len(s.Left) != 2 || s.Left[0].ID != "b" || s.Left[1].ID != "d" {
		t.Errorf("%v were left out, want b and d", s.Left)
	}
	if got := names(s); got != "a c e " || len(s.Problems) != 2 || s.Problems[0].ID != "b" || s.Problems[1].Field != "wg_ip" || s.POPs != nil {
		t.Errorf("left are %q, problems %v", got, s.Problems)
	}
	s = testLoops(":8080", "10.0.0.2/32").cut(snapshot())
	if got := names(s); got != "a bPOP eu c e " || len(s.Problems) != 1 || !s.POPs[netip.MustParseAddr("10.0.0.3")] || !s.POPs[netip.MustParseAddr("10.0.0.1")] || s.POPs[netip.MustParseAddr("10.0.0.9")] {
		t.Errorf("left are %q, problems %v, POPs %v", got, s.Problems, s.POPs)
	}
}

// What nobody reaches from elsewhere is not told: a member has 512 bytes for all.
func TestPortsTag(t *testing.T) {
	for want, addrs := range map[string][]string{"": {"127.0.0.1:8180", "[::1]:53", ""}, "8180": {"[::]:8180", ""}, "8180,53": {"0.0.0.0:8180", "10.0.0.1:53"}} {
		if got := portsTag(addrs); got != want {
			t.Errorf("of %v the others are told %q, want %q", addrs, got, want)
		}
	}
}
