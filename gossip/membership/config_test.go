package membership_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
	"github.com/rs/zerolog"
)

// Every problem is named at once, with what to do.
func TestValidate(t *testing.T) {
	_, err := membership.New(membership.Config{
		Node:      "has space",
		Bind:      netip.MustParseAddrPort("224.0.0.1:7946"),
		Advertise: netip.MustParseAddrPort("0.0.0.0:7946"),
		Keys:      [][]byte{make([]byte, 16), key(1), key(1)},
		Join:      []string{"host:99999", "a b", "", "2001:db8::1:::"},
		Tags:      map[string]string{"long": strings.Repeat("x", 600)},
		Timing:    membership.Timing{ProbeInterval: time.Second, ProbeTimeout: time.Second},
	}, zerolog.Nop())
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`node "has space"`, "bind 224.0.0.1", "advertise 0.0.0.0", "key 1 of 3: 16 bytes", "key 3 of 3: the same",
		`seed "host:99999"`, `seed "a b"`, `seed ""`, `seed "2001:db8::1:::"`, "tags: 610 bytes", "probe timeout 1s",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not named: %s", want)
		}
	}
	if t.Failed() {
		t.Logf("named:\n%v", err)
	}
	for _, join := range []string{"sa.example.net", "sa.example.net:7946", "10.0.0.1", "10.0.0.1:1", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:7946"} {
		if _, err := membership.New(membership.Config{Node: "a", Join: []string{join}}, zerolog.Nop()); err != nil {
			t.Errorf("seed %s: %v", join, err)
		}
	}
	for _, name := range []string{"", "a/b", "a\nb", strings.Repeat("x", 129)} {
		if _, err := membership.New(membership.Config{Node: name}, zerolog.Nop()); err == nil {
			t.Errorf("name %q accepted", name)
		}
	}
}

// What we let pass as tags fits serf, to the byte, and what we refuse does not.
func TestTagsLimit(t *testing.T) {
	build := func(pairs, length int) map[string]string {
		tags := map[string]string{}
		for i := range pairs {
			share := min(length, 600/pairs)
			tags[fmt.Sprintf("k%02d", i)] = strings.Repeat("v", share)
			length -= share
		}
		return tags
	}
	for _, pairs := range []int{1, 10, 15, 16, 17} {
		refused := -1
		for length := range 600 {
			tags := build(pairs, length)
			if _, err := membership.New(membership.Config{Node: "a", Tags: tags}, zerolog.Nop()); err != nil {
				refused = length
				break
			}
		}
		if refused < 0 {
			t.Fatalf("%d pairs of 600 bytes accepted", pairs)
		}
		bubble(t, memnet.Config{}, func(t *testing.T, net *memnet.Net) {
			fits := build(pairs, refused-1)
			n := start(t, membership.Config{Node: "a", Tags: fits, Transport: net.Host("10.0.0.1").Transport(7946)})
			if got := n.member("a").Tags; len(got) != len(fits) {
				t.Errorf("%d tags of %d arrived", len(got), len(fits))
			}
			// serf's own limit must be the same: a byte more is too much for it.
			if !membership.SerfRefusesTags(build(pairs, refused)) {
				t.Errorf("%d pairs, %d bytes: we refuse what serf takes", pairs, refused)
			}
		})
	}
}

func TestLogLevels(t *testing.T) {
	l := &lines{}
	w := membership.NewLogWriter(zerolog.New(l))
	for _, c := range []struct{ line, want string }{
		{"[WARN] serf: Shutdown without a Leave\n", `{"level":"debug","library":"serf","text":"Shutdown without a Leave","message":"gossip library"}`},
		{"[ERR] memberlist: Push/Pull with b failed: EOF", `{"level":"warn","library":"memberlist","text":"Push/Pull with b failed: EOF","message":"gossip library"}`},
		{"[INFO] serf: EventMemberJoin: b 10.0.0.2", `{"level":"debug","library":"serf","text":"EventMemberJoin: b 10.0.0.2","message":"gossip library"}`},
		{"[DEBUG] memberlist: Stream connection", `{"level":"debug","library":"memberlist","text":"Stream connection","message":"gossip library"}`},
		{"Err: something else", `{"level":"debug","library":"gossip","text":"Err: something else","message":"gossip library"}`},
		{"[", `{"level":"debug","library":"gossip","text":"[","message":"gossip library"}`},
	} {
		l.b.Reset()
		fmt.Fprint(w, c.line)
		if got := strings.TrimSpace(l.String()); got != c.want {
			t.Errorf("%q became\n%s, want\n%s", c.line, got, c.want)
		}
	}
}

// A flood of one kind is held back and counted; others still come through.
func TestLogFlood(t *testing.T) {
	bubble(t, memnet.Config{}, func(t *testing.T, _ *memnet.Net) {
		l := &lines{}
		w := membership.NewLogWriter(zerolog.New(l))
		for i := range 10_000 {
			fmt.Fprintf(w, "[ERR] memberlist: Decrypt packet failed: no installed keys from=198.51.100.%d:%d", i%256, i)
			fmt.Fprintf(w, "[WARN] memberlist: invented %x kind %x", i, i*i)
			time.Sleep(100 * time.Millisecond)
		}
		fmt.Fprint(w, "[WARN] memberlist: Refuting a suspect message (from: b)")
		if n := l.count("Decrypt packet failed"); n < 10 || n > 30 {
			t.Errorf("%d lines of a flood of 10,000 in 17 minutes", n)
		}
		if !strings.Contains(l.String(), `"held_back":599`) {
			t.Error("what was held back is not counted")
		}
		if l.count("Refuting") != 1 {
			t.Error("the flood hid another kind")
		}
		if n := l.count("invented"); n > 200 {
			t.Errorf("%d lines of invented kinds", n)
		}
	})
}
