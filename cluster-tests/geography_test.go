package clustertests

import (
	"fmt"
	"io"
	"net"
	"testing"
)

// TestGeography: a client goes to its own region; where nobody serves that,
// or nobody knows where it is, to the POP's own.
func TestGeography(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa", "eu", "ap", "us"), append(trusting, "EDGEPROXY_REGION=us", "EDGEPROXY_BINDING_TTL_SECS=0")...)
	for _, c := range []struct{ who, from, country, want string }{
		{"Brazil", "200.160.2.3", "BR", "sa-1"},
		{"Germany", "193.99.144.80", "DE", "eu-1"},
		{"Japan", "203.178.141.194", "JP", "ap-1"},
		{"America", "8.8.8.8", "US", "us-1"},
		{"Kenya, which no backend serves", "197.248.0.1", "KE", "us-1"},
		{"Germany by IPv6", "2a01:4f8::1", "DE", "eu-1"},
		{"Brazil by IPv6", "2001:12ff::10", "BR", "sa-1"},
		{"Brazil mapped into IPv6", "::ffff:200.160.2.3", "BR", "sa-1"},
		{"private", "192.168.1.1", "", "us-1"},
		{"private IPv6", "fd00::1", "", "us-1"},
		{"loopback", "127.0.0.1", "", "us-1"},
		{"carrier's NAT", "100.64.1.1", "", "us-1"},
		{"unknown to the database", "240.0.0.1", "", "us-1"},
		{"unknown IPv6", "3fff::1", "", "us-1"},
	} {
		for version := byte(1); version <= 2; version++ {
			v, err := p.callWith(header(version, c.from))
			if err != nil {
				t.Errorf("%s, version %d: %v", c.who, version, err)
				continue
			}
			v.Close()
			if v.backend != c.want {
				t.Errorf("%s, version %d: went to %s, want %s", c.who, version, v.backend, c.want)
			}
		}
		if e := p.explain(t, c.from); e.Chosen != c.want || e.Country != c.country {
			t.Errorf("%s: explain says country %q and %s, want %q and %s", c.who, e.Country, e.Chosen, c.country, c.want)
		}
	}
	p.expectLog(t, `"client":"200.160.2.3:40000"`, `"country":"BR"`, `"region":"sa"`, `"backend":"sa-1"`, `"reason":"client_region"`, `"end":"closed"`)
}

// TestHeaderWithoutAddress: LOCAL, UNKNOWN and UNSPEC say nothing of a client, so the socket's address counts.
func TestHeaderWithoutAddress(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa", "eu"), append(trusting, "EDGEPROXY_REGION=eu")...)
	const signature = "\r\n\r\n\x00\r\nQUIT\n"
	for name, h := range map[string]string{
		"v1 UNKNOWN":                "PROXY UNKNOWN\r\n",
		"v1 UNKNOWN with addresses": "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n",
		"v2 LOCAL":                  signature + "\x20\x00\x00\x00",
		"v2 LOCAL with an address":  signature + "\x20\x11\x00\x0c\xc8\xa0\x02\x03\xc0\x00\x02\x01\x9c\x40\x01\xbb",
		"v2 PROXY UNSPEC":           signature + "\x21\x00\x00\x00",
	} {
		v, err := p.callWith([]byte(h))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if v.backend != "eu-1" {
			t.Errorf("%s: went to %s, want the POP's region", name, v.backend)
		}
		v.alive(t)
		v.Close()
	}
	if err := p.log.says(`"client":"200.160.2.3`); err == nil {
		t.Error("an address of a LOCAL header counted")
	}
}

// TestHeaderIsFramed: what comes with the header in one packet reaches the
// backend, and a header that comes byte by byte is one too.
func TestHeaderIsFramed(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa", "eu"), append(trusting, "EDGEPROXY_REGION=eu")...)
	for version := byte(1); version <= 2; version++ {
		v, err := p.callWith(append(header(version, "200.160.2.3"), "early\n"...))
		if err != nil {
			t.Fatal(err)
		}
		if line, err := v.r.ReadString('\n'); err != nil || line != "[sa-1] Echo: early\n" {
			t.Errorf("version %d: what came with the header came back as %q, %v", version, line, err)
		}
		v.alive(t)
		v.Close()

		c := p.connect(t, nil)
		for _, b := range header(version, "200.160.2.3") {
			if _, err := c.Write([]byte{b}); err != nil {
				t.Fatal(err)
			}
		}
		line := make([]byte, len("Backend: sa-1"))
		if _, err := io.ReadFull(c, line); err != nil || string(line) != "Backend: sa-1" {
			t.Errorf("version %d byte by byte: %q, %v", version, line, err)
		}
	}
}

// TestHeaderOfOthersIsData: who is not trusted cannot say where it is, and what it says reaches the backend.
func TestHeaderOfOthersIsData(t *testing.T) {
	t.Parallel()
	rows := startBackends(t, "sa", "eu")
	for name, env := range map[string][]string{
		"off":           {"EDGEPROXY_PROXY_PROTOCOL=off"},
		"others' trust": {"EDGEPROXY_PROXY_PROTOCOL=on", "EDGEPROXY_TRUSTED_PROXIES=127.0.0.2,10.0.0.0/8"},
	} {
		p := startPOP(t, rows, append(env, "EDGEPROXY_REGION=eu")...)
		v := p.visit(t, "") // greeted without having sent a byte
		if v.backend != "eu-1" {
			t.Errorf("%s: went to %s", name, v.backend)
		}
		v, err := p.callWith(header(1, "200.160.2.3"))
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("[eu-1] Echo: %s\n", "PROXY TCP4 200.160.2.3 192.0.2.1 40000 443")
		if line, err := v.r.ReadString('\n'); err != nil || line != want {
			t.Errorf("%s: the backend got %q, %v, want the header", name, line, err)
		}
		v.Close()
	}

	// The same POP believes the one that it trusts.
	p := startPOP(t, rows, "EDGEPROXY_PROXY_PROTOCOL=on", "EDGEPROXY_TRUSTED_PROXIES=127.0.0.2", "EDGEPROXY_REGION=eu")
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: soon}
	c, err := d.Dial("tcp", p.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(header(1, "200.160.2.3")); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("Backend: sa-1"))
	if _, err := io.ReadFull(c, line); err != nil || string(line) != "Backend: sa-1" {
		t.Errorf("a trusted peer's client: %q, %v", line, err)
	}
}
