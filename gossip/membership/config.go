package membership

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
)

// DefaultPort is where a mesh gossips, and the port of a seed that names none.
const DefaultPort = 7946

// NonceTag is the tag by which two live nodes with one name are told apart: a
// random word that every start of a node makes anew.
const NonceTag = "nonce"

// Config says who this node is and whom it looks for. The zero value lacks only
// the name: it gossips unencrypted on every interface and waits to be joined.
type Config struct {
	Node      string                        // name in the mesh, unique there
	Bind      netip.AddrPort                // zero: 0.0.0.0:7946; port 0: a free one
	Advertise netip.AddrPort                // what others dial; zero address: guessed; port 0: the bound one
	Keys      [][]byte                      // 32 bytes each; the first encrypts, all decrypt; none: unencrypted
	Join      []string                      // seeds, host:port or host
	Snapshot  string                        // file that remembers the members, in serf's format; empty: none
	Tags      map[string]string             // what others read about this node; at most 512 bytes encoded
	Transport memberlist.NodeAwareTransport // nil: UDP and TCP sockets on Bind; Run shuts it down
	Timing    Timing

	// Via says where the sockets reach an address that another node advertises:
	// the lab puts a relay between, which it can cut. nil: at that address.
	Via func(addr string) string

	// Resolve looks a seed's name up, at every attempt; nil: net.DefaultResolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Timing is how fast verdicts are. All nodes of a mesh should have the same.
// The defaults are measured in TestVerdicts: a killed node is failed within
// about 10 s among 3 to 30, and 350 ms round trips with 2 % loss accuse nobody.
// Where a packet is lost, two round trips after ProbeTimeout must fit the
// interval (500 ms do), or each loss is a suspicion and some a false verdict.
type Timing struct {
	ProbeInterval time.Duration // every node probes one other; 0: 1.5 s
	ProbeTimeout  time.Duration // for the direct answer, then others ask and TCP is tried; 0: 500 ms
	Suspicion     int           // a suspect has this many intervals, by log10 of the nodes, to object; 0: 3
	Gossip        time.Duration // between rounds of gossip; 0: 200 ms
	PushPull      time.Duration // between full exchanges with one other node, below 33 nodes; 0: 15 s
	Reconnect     time.Duration // between attempts to reach a failed member; 0: 1 s
	Dial          time.Duration // for a TCP connection; 0: 4 s
	Retention     time.Duration // for which failed and left members are remembered; 0: 24 h
	JoinMin       time.Duration // the first wait between attempts to join; 0: 500 ms
	JoinMax       time.Duration // the longest; 0: 30 s
}

func (t Timing) withDefaults() Timing {
	or := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	or(&t.ProbeInterval, 1500*time.Millisecond)
	or(&t.ProbeTimeout, 500*time.Millisecond)
	if t.Suspicion <= 0 {
		t.Suspicion = 3
	}
	or(&t.Gossip, 200*time.Millisecond)
	or(&t.PushPull, 15*time.Second)
	or(&t.Reconnect, time.Second)
	or(&t.Dial, 4*time.Second)
	or(&t.Retention, 24*time.Hour)
	or(&t.JoinMin, 500*time.Millisecond)
	or(&t.JoinMax, 30*time.Second)
	return t
}

// seed is one entry of Config.Join.
type seed struct {
	text string // as it was written
	host string // a name, or an address in text
	addr netip.Addr
	port uint16
}

func parseSeed(text string) (seed, error) {
	s := seed{text: text, host: strings.TrimSpace(text), port: DefaultPort}
	if a, err := netip.ParseAddr(strings.Trim(s.host, "[]")); err == nil {
		s.addr = a.Unmap()
		return s, nil
	}
	if host, port, err := net.SplitHostPort(s.host); err == nil {
		p, err := strconv.ParseUint(port, 10, 16)
		if err != nil || p == 0 {
			return s, fmt.Errorf("seed %q: port %q: want 1 to 65535", text, port)
		}
		s.host, s.port = host, uint16(p)
	}
	if a, err := netip.ParseAddr(s.host); err == nil {
		s.addr = a.Unmap()
		return s, nil
	}
	if s.host == "" || strings.ContainsAny(s.host, ":/@[] \t\n") {
		return s, fmt.Errorf("seed %q: want host:port, like sa.example.net:7946, or [2001:db8::1]:7946", text)
	}
	return s, nil
}

// validate reports every problem at once.
func (c Config) validate() (seeds []seed, err error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := checkName(c.Node); err != nil {
		errs = append(errs, err)
	}
	if a := c.Advertise.Addr(); a.IsValid() && (a.IsUnspecified() || a.IsMulticast()) {
		bad("advertise %s: want an address that the other nodes can dial", a)
	}
	if a := c.Bind.Addr(); a.IsValid() && a.IsMulticast() {
		bad("bind %s: want an address of this machine, or 0.0.0.0 for all", a)
	}
	if err := checkKeys(c.Keys); err != nil {
		errs = append(errs, err)
	}
	for _, text := range c.Join {
		s, err := parseSeed(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		seeds = append(seeds, s)
	}
	if err := checkTags(c.Tags); err != nil {
		errs = append(errs, err)
	}
	if t := c.Timing.withDefaults(); t.ProbeTimeout >= t.ProbeInterval {
		bad("probe timeout %s is not below the probe interval %s: nobody else would be asked about a silent node", t.ProbeTimeout, t.ProbeInterval)
	}
	return seeds, errors.Join(errs...)
}

// checkName keeps to what serf's tools can write down and ask for: a member
// stands as "name address" in a line of the snapshot, as "name/address" in a join.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("node: no name: give it one that no other node has")
	case len(name) > 128:
		return fmt.Errorf("node %.20q...: %d bytes: at most 128", name, len(name))
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r >= 0x7f }):
		return fmt.Errorf("node %q: use letters, digits and signs without spaces and slashes", name)
	}
	return nil
}

func checkKeys(keys [][]byte) error {
	var errs []error
	for i, k := range keys {
		if len(k) != 32 {
			errs = append(errs, fmt.Errorf("key %d of %d: %d bytes: want 32, as edgeproxy keygen makes them", i+1, len(keys), len(k)))
		}
		for _, before := range keys[:i] {
			if bytes.Equal(before, k) {
				errs = append(errs, fmt.Errorf("key %d of %d: the same as one before it: name each once", i+1, len(keys)))
				break
			}
		}
	}
	return errors.Join(errs...)
}

func checkTags(tags map[string]string) error {
	if n := encodedTags(tags); n > memberlist.MetaMaxSize {
		return fmt.Errorf("tags: %d bytes encoded, at most %d fit a gossip message: shorten or drop some", n, memberlist.MetaMaxSize)
	}
	return nil
}

// encodedTags is the size serf gives them: one magic byte and a MessagePack map
// of strings, in the format's old form without str8 (TestTagsLimit compares).
func encodedTags(tags map[string]string) int {
	n := 1 + header(len(tags), 16)
	for k, v := range tags {
		n += header(len(k), 32) + len(k) + header(len(v), 32) + len(v)
	}
	return n
}

func header(length, short int) int {
	switch {
	case length < short:
		return 1
	case length < 1<<16:
		return 3
	default:
		return 5
	}
}
