package clustertests

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
)

// tunnelMesh is three POPs that have tunnels with each other, without privileges.
func tunnelMesh(t *testing.T) *mesh {
	t.Helper()
	m := planMesh(t, 3, "EDGEPROXY_WG=netstack", "EDGEPROXY_DRAIN_SECS=1")
	for i, p := range m.pops {
		host, _, err := net.SplitHostPort(p.setting("EDGEPROXY_GOSSIP_ADDR"))
		if err != nil {
			t.Fatal(err)
		}
		if ln, err := net.ListenPacket("udp6", "[::1]:0"); i == 2 && err == nil { // packets go by both families
			ln.Close()
			host = "::1"
		}
		port := strconv.Itoa(freeUDP(t))
		p.set("EDGEPROXY_WG_PORT", port)
		p.set("EDGEPROXY_WG_ENDPOINT", net.JoinHostPort(host, port))
	}
	m.start(t)
	everywhere(t, "SELECT count(*) FROM wg_pops WHERE public_key<>'' AND address<>''", "3", m.pops...)
	return m
}

// TestOverlayClaims: a POP has the address that its operator writes into its
// row, unless another has it; nobody writes another's row; and what a POP has
// stays over a restart, even a killed one.
func TestOverlayClaims(t *testing.T) {
	t.Parallel()
	m := tunnelMesh(t)
	a, b, c := m.pops[0], m.pops[1], m.pops[2]
	defer func() {
		if t.Failed() {
			t.Log(states(m.pops...) + wgStates(m.pops...))
		}
	}()
	has := func(p *pop, want string, seenBy ...*pop) {
		t.Helper()
		everywhere(t, "SELECT address FROM wg_pops WHERE node='"+p.Node+"'", want, m.pops...)
		eventually(t, soon, func() error {
			s, err := p.wg()
			if err != nil || len(s.Addresses) == 0 || s.Addresses[0].Addr().String() != want {
				return fmt.Errorf("%s has %v, want %s: %v", p.Node, s.Addresses, want, err)
			}
			for _, other := range seenBy {
				if s, err = other.wg(); err != nil || other == p {
					continue
				}
				if x, err := s.peer(p.Node); err != nil || len(x.AllowedIPs) != 2 || x.AllowedIPs[0].String() != want+"/32" {
					return fmt.Errorf("%s has %v for %s, want %s: %v", other.Node, x.AllowedIPs, p.Node, want, err)
				}
			}
			return err
		})
	}
	a.sql(t, "UPDATE wg_pops SET address='10.50.0.1' WHERE node='"+a.Node+"'")
	has(a, "10.50.0.1", b, c)

	// What a has already b cannot have: it takes another, and a keeps it.
	b.sql(t, "UPDATE wg_pops SET address='10.50.0.1', claimed_ms=claimed_ms+1000 WHERE node='"+b.Node+"'")
	b.expectLog(t, "of POP "+a.Node)
	eventually(t, soon, func() error {
		got, err := c.query("SELECT address FROM wg_pops WHERE node='" + b.Node + "'")
		if got = strings.TrimSpace(got); err != nil || got == "10.50.0.1" || got == "" {
			return fmt.Errorf("%s has %q: %v", b.Node, got, err)
		}
		return nil
	})
	has(a, "10.50.0.1", b, c)

	// c writes a's row: it stays on c, and a's own word is everybody else's.
	key := strings.TrimSpace(a.says(t, "wg", "status", "--json"))
	c.sql(t, "UPDATE wg_pops SET public_key=(SELECT public_key FROM wg_pops WHERE node='"+b.Node+"') WHERE node='"+a.Node+"'")
	b.sql(t, "INSERT INTO backends (id, region, wg_ip, port) VALUES ('later','sa','10.9.9.9',9)") // after which b has heard of it, if ever
	everywhere(t, "SELECT count(*) FROM backends", "1", m.pops...)
	own, err := b.query("SELECT count(*) FROM wg_pops WHERE node='" + a.Node + "' AND instr('" + strings.ReplaceAll(key, "'", "") + "', public_key)>0")
	if err != nil || strings.TrimSpace(own) != "1" {
		t.Errorf("%s has another key for %s: %q %v", b.Node, a.Node, own, err)
	}

	before, _ := a.wg()
	a.kill(t)
	a.start(t)
	has(a, "10.50.0.1", b) // c has spoilt its own picture of a, and nobody else's
	if after, err := a.wg(); err != nil || after.PublicKey != before.PublicKey {
		t.Errorf("after kill -9 the key is %s, was %s: %v", after.PublicKey, before.PublicKey, err)
	}
}
