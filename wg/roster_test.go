package wg

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// problemOf is the sentence about a name, "" if there is none.
func problemOf(problems []Problem, name string) string {
	i := slices.IndexFunc(problems, func(p Problem) bool { return p.Name == name })
	if i < 0 {
		return ""
	}
	return problems[i].Message
}

// TestClaims: who claims what another has is refused and named, and the other keeps it.
func TestClaims(t *testing.T) {
	route := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	for name, c := range map[string]struct {
		change  func(pops []POP, devices []Device)
		liar    string
		message string
		gone    bool
	}{
		"nothing wrong":                    {func([]POP, []Device) {}, "", "", false},
		"a POP's key":                      {func(p []POP, _ []Device) { p[1].Key = p[0].Key }, "pop-0001", "key of POP pop-0000", true},
		"a POP's next key":                 {func(p []POP, _ []Device) { p[0].Next, p[1].Key = key(7), key(7) }, "pop-0001", "key of POP pop-0000", true},
		"a POP's key as the next":          {func(p []POP, _ []Device) { p[1].Next = p[0].Key }, "pop-0001", "key of POP pop-0000", false},
		"a POP's key, earlier":             {func(p []POP, _ []Device) { p[1].Key, p[1].Claimed = p[0].Key, -9 }, "pop-0001", "key of POP pop-0000", true},
		"a POP's address":                  {func(p []POP, _ []Device) { p[1].Four = p[0].Four }, "pop-0001", "of POP pop-0000", false},
		"a POP's IPv6 address":             {func(p []POP, _ []Device) { p[1].Six = p[0].Six }, "pop-0001", "by its name it is", false},
		"a device's POP address":           {func(p []POP, d []Device) { d[0].Six = p[0].Six }, "d", "of POP pop-0000", false},
		"a device's key":                   {func(p []POP, d []Device) { d[0].Key = p[0].Key }, "d", "key of POP pop-0000", true},
		"a POP's key as the next, earlier": {func(p []POP, _ []Device) { p[1].Next, p[1].Claimed = p[0].Key, -9 }, "pop-0001", "key of POP pop-0000", false},
		"a device's key as the next":       {func(p []POP, d []Device) { p[1].Next, p[1].Claimed = d[0].Key, -9 }, "pop-0001", "key of peer d", false},
		"the name of a POP":                {func(p []POP, d []Device) { d[1].Name = "pop-0000" }, "pop-0000", "the name of a POP", false},
		"an endpoint in the overlay":       {func(p []POP, _ []Device) { p[1].Endpoint = netip.AddrPortFrom(p[1].Six, 9) }, "pop-0001", "in the overlay itself", false},
		"a route to a POP's endpoint":      {func(p []POP, d []Device) { d[0].Routes = route("192.0.2.0/24") }, "d", "outside the overlay", false},
		"half of the internet":             {func(p []POP, d []Device) { d[0].Routes = route("128.0.0.0/1") }, "d", "want a network of one site", false},
		"a route to loopback":              {func(p []POP, d []Device) { d[0].Routes = route("127.0.0.0/8") }, "d", "want a network of one site", false},
		"no IPv6":                          {func(p []POP, _ []Device) { p[1].Six = netip.Addr{} }, "", "", false},
		"an address of no network":         {func(p []POP, d []Device) { d[0].Four = netip.MustParseAddr("8.8.8.8") }, "d", "none of the overlay's", false},
		"a route into the overlay":         {func(p []POP, d []Device) { d[0].Routes = route("10.50.7.0/24") }, "d", "the overlay's own", false},
		"a route to everything":            {func(p []POP, d []Device) { d[0].Routes = route("0.0.0.0/0") }, "d", "want a network", false},
		"a route that overlaps":            {func(p []POP, d []Device) { d[0].Routes, d[1].Routes = route("192.168.0.0/16"), route("192.168.7.0/24") }, "e", "overlaps with 192.168.0.0/16 of peer d", false},
		"a route with bits behind it":      {func(p []POP, d []Device) { d[0].Routes = route("192.168.7.1/24") }, "d", "want a network", false},
		"the same address of two pops":     {func(p []POP, _ []Device) { p[0].Four, p[0].Claimed = p[1].Four, 5 }, "pop-0000", "of POP pop-0001", false},
	} {
		t.Run(name, func(t *testing.T) {
			before, _ := Settle(pops(2, "sa"), nil, testNetworks, Roster{})
			if name == "a POP's next key" {
				before.POPs[0].Next = key(7)
			}
			list := pops(2, "sa")
			devices := []Device{{Name: "d", Key: key(100), Claimed: 10}, {Name: "e", Key: key(101), Claimed: 11}}
			if name == "a device's key as the next" {
				before.Devices = slices.Clone(devices)
			}
			c.change(list, devices)
			r, problems := Settle(list, devices, testNetworks, before)
			if c.liar == "" {
				if len(problems) > 0 {
					t.Fatal(problems)
				}
				return
			}
			if msg := problemOf(problems, c.liar); len(problems) != 1 || !strings.Contains(msg, c.message) {
				t.Errorf("problems %v, want one of %s with %q", problems, c.liar, c.message)
			}
			in := slices.ContainsFunc(r.POPs, func(p POP) bool { return p.Name == c.liar }) || slices.ContainsFunc(r.Devices, func(d Device) bool { return d.Name == c.liar })
			if in == c.gone {
				t.Errorf("%s in the roster: %v, want %v", c.liar, in, !c.gone)
			}
		})
	}
}

// TestSettle: everybody holds what nobody else has, in whatever order the rows come.
func TestSettle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := pops(8, "sa", "us")
		few := rapid.IntRange(1, 5)
		for i := range list {
			list[i].Claimed = int64(few.Draw(t, "claimed"))
			if few.Draw(t, "steals") == 1 {
				list[i].Key = key(few.Draw(t, "key"))
			}
			if few.Draw(t, "steals address") == 1 {
				list[i].Four = list[few.Draw(t, "of")].Four
			}
			if few.Draw(t, "changes key") == 1 {
				list[i].Next = key(few.Draw(t, "next"))
			}
		}
		devices := []Device{{Name: "pop-0001", Key: key(few.Draw(t, "device key")), Four: list[2].Four}, {Name: "x", Key: key(77), Four: list[3].Four}}
		r, problems := Settle(list, devices, testNetworks, Roster{})
		keys, addrs := map[Key]bool{}, map[netip.Addr]bool{}
		hold := func(k Key) {
			if keys[k] {
				t.Fatalf("two hold key %s", k)
			}
			keys[k] = true
		}
		have := func(a netip.Addr) {
			if a.IsValid() && addrs[a] {
				t.Fatalf("two have address %s", a)
			}
			addrs[a] = true
		}
		for _, p := range r.POPs {
			hold(p.Key)
			if p.Next != (Key{}) && p.Next != p.Key {
				hold(p.Next)
			}
			have(p.Four)
			have(p.Six)
		}
		for _, d := range r.Devices {
			hold(d.Key)
			have(d.Four)
		}
		shuffled, back := slices.Clone(list), slices.Clone(devices)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		slices.Reverse(back)
		again, same := Settle(shuffled, back, testNetworks, Roster{})
		if !reflect.DeepEqual(r, again) || len(problems) != len(same) {
			t.Fatalf("another order, another end:\n%+v\n%+v", r, again)
		}
	})
}

// TestAddresses: a name always makes the same address, and a taken one the next.
func TestAddresses(t *testing.T) {
	n := testNetworks
	free := func(netip.Addr) bool { return false }
	first := n.POPFour("pop-sa", free)
	if again := n.POPFour("pop-sa", free); again != first || !netip.MustParsePrefix("10.50.0.0/24").Contains(first) {
		t.Errorf("%s, then %s, want one of 10.50.0.0/24", first, again)
	}
	if next := n.POPFour("pop-sa", func(a netip.Addr) bool { return a == first }); next == first || !next.IsValid() {
		t.Errorf("%s is taken, got %s", first, next)
	}
	if none := n.POPFour("pop-sa", func(netip.Addr) bool { return true }); none.IsValid() {
		t.Errorf("all are taken, got %s", none)
	}
	if none := (Networks{Six: n.Six}).POPFour("pop-sa", free); none.IsValid() {
		t.Errorf("no IPv4 network, got %s", none)
	}
	seen := map[netip.Addr]bool{}
	for range 254 {
		a := n.DeviceFour("laptop", "us", func(a netip.Addr) bool { return seen[a] })
		if b := a.As4(); seen[a] || b[2] != 2 || b[3] == 0 || b[3] == 255 {
			t.Fatalf("address %s in us", a)
		}
		seen[a] = true
	}
	for region, subnet := range map[string]string{"sa": "fd50:ed9e:0:1::/64", "us": "fd50:ed9e:0:2::/64", "eu": "fd50:ed9e:0:3::/64", "ap": "fd50:ed9e:0:4::/64"} {
		if a := n.DeviceSix("x", region); !netip.MustParsePrefix(subnet).Contains(a) {
			t.Errorf("%s in %s, want %s", a, region, subnet)
		}
	}
	if a := n.POPSix("x"); !netip.MustParsePrefix("fd50:ed9e::/64").Contains(a) || a == n.POPSix("y") {
		t.Errorf("POP x has %s, y %s", a, n.POPSix("y"))
	}
	for _, region := range []string{"af", "me", "mars"} {
		if s := subnet(region); s < 5 || s > 254 {
			t.Errorf("subnet %d for %s", s, region)
		}
	}
}

func TestParseNetworks(t *testing.T) {
	for list, want := range map[string]bool{
		"10.50.0.0/16,fd50:ed9e::/48": true, "fd50:ed9e::/48": true, "10.50.0.0/16": false, "10.50.0.0/24,fd50:ed9e::/48": false,
		"fd50::/64": false, "10.50.0.0/16,10.51.0.0/16,fd50::/48": false, "": false,
	} {
		var prefixes []netip.Prefix
		for s := range strings.SplitSeq(list, ",") {
			if p, err := netip.ParsePrefix(s); err == nil {
				prefixes = append(prefixes, p)
			}
		}
		if _, err := ParseNetworks(prefixes); (err == nil) != want {
			t.Errorf("%q: %v", list, err)
		}
	}
}

func TestParseKey(t *testing.T) {
	k := key(5)
	if again, err := ParseKey(k.String()); err != nil || again != k {
		t.Errorf("%s: %s, %v", k, again, err)
	}
	for _, bad := range []string{"", "x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", k.String()[:40], k.String() + "\n"} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
