package clustertests

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// wgStatus is what a POP says of its overlay: as "edgeproxy wg status --json"
// prints it, and as GET /api/v1/wg answers.
type wgStatus struct {
	Mode      string         `json:"mode"`
	Interface string         `json:"interface"`
	Port      int            `json:"port"`
	PublicKey string         `json:"public_key"`
	Addresses []netip.Prefix `json:"addresses"` // its own, each with its network's length
	Topology  string         `json:"topology"`
	Hub       bool           `json:"hub"`
	Error     string         `json:"error"`
	Problems  []string       `json:"problems"`
	Peers     []wgPeer       `json:"peers"`
}

type wgPeer struct {
	Name       string         `json:"name"`
	Kind       string         `json:"kind"` // pop or peer
	Region     string         `json:"region"`
	PublicKey  string         `json:"public_key"`
	Endpoint   string         `json:"endpoint"`
	AllowedIPs []netip.Prefix `json:"allowed_ips"`
	Handshake  time.Time      `json:"latest_handshake"` // zero: none yet
	Received   int64          `json:"received"`
	Sent       int64          `json:"sent"`
}

// wg is the POP's overlay by its API.
func (p *pop) wg() (wgStatus, error) { return look[wgStatus](p, "wg") }

// wgCLI is the same by the command line.
func (p *pop) wgCLI() (s wgStatus, err error) {
	out, err := p.command("wg", "status", "--json").Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		err = fmt.Errorf("wg status: %w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	return s, err
}

// says runs a command that must succeed, and returns what it prints.
func (p *pop) says(t testing.TB, args ...string) string {
	t.Helper()
	code, out, errs := p.run(t, args...)
	if code != 0 {
		t.Fatalf("edgeproxy %s on %s: exit code %d: %s%s", strings.Join(args, " "), p.Node, code, errs, wgStates(p))
	}
	return out
}

// peer is the one with this name: of a POP that changes its key, which is
// there twice, the one that was heard last.
func (s wgStatus) peer(name string) (found wgPeer, err error) {
	err = fmt.Errorf("no peer %s in %q", name, s.names(""))
	for _, p := range s.Peers {
		if p.Name == name && (err != nil || p.Handshake.After(found.Handshake)) {
			found, err = p, nil
		}
	}
	return found, err
}

// names are those of the peers of a kind, in order; "" is any kind.
func (s wgStatus) names(kind string) []string {
	var names []string
	for _, p := range s.Peers {
		if kind == "" || p.Kind == kind {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// overlay waits until a POP has addresses of both families in the overlay.
func (p *pop) overlay(t testing.TB) (four, six netip.Addr) {
	t.Helper()
	eventually(t, soon, func() error {
		s, err := p.wg()
		if err == nil {
			four, six, err = families(s.Addresses)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w; error %q", p.Node, err, s.Error)
		}
		return err
	})
	return four, six
}

// families are the one address of each.
func families(all []netip.Prefix) (four, six netip.Addr, err error) {
	for _, a := range all {
		if a.Addr().Is4() {
			four = a.Addr()
		} else {
			six = a.Addr()
		}
	}
	if len(all) != 2 || !four.IsValid() || !six.IsValid() {
		err = fmt.Errorf("addresses %q, want one of IPv4 and one of IPv6", all)
	}
	return four, six, err
}

// wgState is a POP's overlay in one line.
func (p *pop) wgState() string {
	s, err := p.wg()
	if err != nil {
		return p.Node + ": wg: " + err.Error()
	}
	line := fmt.Sprintf("%s: wg %s %s port %d key %.6s addresses %v %s hub %v error %q problems %q, peers", p.Node, s.Mode, s.Interface, s.Port, s.PublicKey, s.Addresses, s.Topology, s.Hub, s.Error, s.Problems)
	for _, x := range s.Peers {
		heard := "never"
		if !x.Handshake.IsZero() {
			heard = time.Since(x.Handshake).Round(time.Second).String() + " ago"
		}
		line += fmt.Sprintf(" %s(%s %.6s %s %v %s +%d -%d)", x.Name, x.Kind, x.PublicKey, x.Endpoint, x.AllowedIPs, heard, x.Received, x.Sent)
	}
	return line
}

// wgStates are those of some POPs, a line each.
func wgStates(pops ...*pop) string {
	var s strings.Builder
	for _, p := range pops {
		s.WriteString("\n" + p.wgState())
	}
	return s.String()
}

// quick is a file of wg-quick(8), as far as edgeproxy prints it.
type quick struct {
	text      string
	private   string // empty: the file has none
	addresses []netip.Prefix
	mtu       int
	port      int // 0: any
	peers     []quickPeer
}

type quickPeer struct {
	public, endpoint string
	allowed          []netip.Prefix
	keepalive        int // seconds
}

// parseQuick refuses what neither wg(8) nor wg-quick(8) would take.
func parseQuick(text string) (q quick, err error) {
	q.text = text
	section := ""
	number := func(value string) int {
		n, e := strconv.Atoi(value)
		err = errors.Join(err, e)
		return n
	}
	prefixes := func(value string) (all []netip.Prefix) {
		for field := range strings.SplitSeq(value, ",") {
			p, e := netip.ParsePrefix(strings.TrimSpace(field))
			err = errors.Join(err, e)
			all = append(all, p)
		}
		return all
	}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if line == "[Peer]" {
			q.peers = append(q.peers, quickPeer{})
		}
		last := len(q.peers) - 1
		switch {
		case line == "":
		case line == "[Interface]" || line == "[Peer]":
			section = line
		case section == "[Interface]" && key == "PrivateKey":
			q.private = value
		case section == "[Interface]" && key == "Address":
			q.addresses = append(q.addresses, prefixes(value)...)
		case section == "[Interface]" && key == "MTU":
			q.mtu = number(value)
		case section == "[Interface]" && key == "ListenPort":
			q.port = number(value)
		case section == "[Peer]" && key == "PublicKey":
			q.peers[last].public = value
		case section == "[Peer]" && key == "Endpoint":
			q.peers[last].endpoint = value
		case section == "[Peer]" && key == "AllowedIPs":
			q.peers[last].allowed = append(q.peers[last].allowed, prefixes(value)...)
		case section == "[Peer]" && key == "PersistentKeepalive":
			q.peers[last].keepalive = number(value)
		default:
			err = errors.Join(err, fmt.Errorf("strange line %q in %q", line, section))
		}
	}
	return q, err
}

// with is the text as its owner keeps it: with the private key and the port
// that only the owner knows.
func (q quick) with(private string, port int) string {
	own := ""
	if q.private == "" {
		own += "PrivateKey = " + private + "\n"
	}
	if q.port == 0 && port != 0 {
		own += fmt.Sprintf("ListenPort = %d\n", port)
	}
	return strings.Replace(q.text, "[Interface]\n", "[Interface]\n"+own, 1)
}

// joined has a POP take a plain device in, and returns the file that it prints.
func (p *pop) joined(t testing.TB, name, region string, more ...string) quick {
	t.Helper()
	return p.file(t, append([]string{"wg", "peer", "add", "--name", name, "--region", region}, more...)...)
}

// exported is the file of a plain device, or of a POP, as a POP knows it.
func (p *pop) exported(t testing.TB, name string) quick {
	t.Helper()
	q := p.file(t, "wg", "export", name)
	if q.private != "" || len(linesWith(q.text, "# PrivateKey = ")) != 1 {
		t.Fatalf("wg export %s knows a private key, or does not say where it belongs:\n%s", name, q.text)
	}
	return q
}

func (p *pop) file(t testing.TB, args ...string) quick {
	t.Helper()
	text := p.says(t, args...)
	q, err := parseQuick(text)
	if err != nil {
		t.Fatalf("edgeproxy %s: %v:\n%s", strings.Join(args, " "), err, text)
	}
	return q
}

// rotates changes a POP's key.
func (p *pop) rotates(t testing.TB) (old, next string) {
	t.Helper()
	before, err := p.wg()
	if err != nil {
		t.Fatal(err)
	}
	out := p.says(t, "wg", "rotate")
	after, err := p.wg()
	if err != nil || after.PublicKey == before.PublicKey || !holds(out, []string{before.PublicKey, after.PublicKey}) {
		t.Fatalf("rotate on %s printed %q; its key was %s and is %s, %v", p.Node, out, before.PublicKey, after.PublicKey, err)
	}
	if !slices.Equal(before.Addresses, after.Addresses) {
		t.Errorf("rotate on %s: its addresses were %v and are %v", p.Node, before.Addresses, after.Addresses)
	}
	return before.PublicKey, after.PublicKey
}

// only has the clients of all POPs go to one backend, and waits until they do.
func (m *mesh) only(t testing.TB, id string) {
	t.Helper()
	settle(t, soon, m.pops...) // a row that is not here yet would not be changed
	if err := m.pops[0].write("UPDATE backends SET healthy=(id='" + id + "')"); err != nil {
		t.Fatal(err)
	}
	for _, p := range m.pops {
		err := waitFor(soon, func() error {
			list, err := look[api.BackendList](p, "backends")
			if err != nil {
				return err
			}
			for _, b := range list.Backends { // else a client may get to the right one by chance
				if b.ID != id && b.State != "unhealthy" {
					return fmt.Errorf("%s still has %s as %s", p.Node, b.ID, b.State)
				}
			}
			return p.goesTo("", id)
		})
		if err != nil {
			t.Fatalf("clients of %s to %s: %v%s", p.Node, id, err, wgStates(m.pops...))
		}
	}
}

// heavy is a line that needs many packets, so that some are as long as can be.
var heavy = strings.Repeat("0123456789abcdef", 16<<10)

// carries has the connection of a client of each POP carry bytes to a backend and back.
func (m *mesh) carries(t testing.TB, id string) {
	t.Helper()
	for _, p := range m.pops {
		v, err := p.call("")
		if err == nil {
			err = v.echo(heavy)
			v.Close()
		}
		if err == nil && v.backend != id {
			err = fmt.Errorf("the client got %s", v.backend)
		}
		if err != nil {
			t.Errorf("%d bytes by %s to %s: %v%s", len(heavy), p.Node, id, err, wgStates(m.pops...))
		}
	}
}

// forgets waits until no POP has a peer with this name.
func (m *mesh) forgets(t testing.TB, name string, within time.Duration) {
	t.Helper()
	eventually(t, within, func() error {
		for _, p := range m.pops {
			s, err := p.wg()
			if err != nil {
				return err
			}
			if _, err := s.peer(name); err == nil {
				return fmt.Errorf("%s still has %s%s", p.Node, name, wgStates(p))
			}
		}
		return nil
	})
}

// knows waits until each POP has these plain devices.
func (m *mesh) knows(t testing.TB, names ...string) {
	t.Helper()
	slices.Sort(names)
	eventually(t, soon, func() error {
		for _, p := range m.pops {
			s, err := p.wg()
			if got := s.names("peer"); err != nil || !slices.Equal(got, names) {
				return fmt.Errorf("%s has the plain devices %q, want %q (%v)%s", p.Node, got, names, err, wgStates(p))
			}
		}
		return nil
	})
}
