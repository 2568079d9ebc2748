package guard

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var anyTime = time.Now()

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func TestLists(t *testing.T) {
	for _, tc := range []struct {
		allow, deny []netip.Prefix
		in, out     []string
	}{
		{nil, nil, []string{"192.0.2.1", "2001:db8::1"}, nil},
		{nil, prefixes("192.0.2.0/24", "2001:db8::/32"),
			[]string{"192.0.3.1", "2001:db9::1"}, []string{"192.0.2.1", "::ffff:192.0.2.9", "2001:db8::1", "2001:db8:ffff::1%eth0"}},
		{prefixes("192.0.2.0/24"), nil, []string{"192.0.2.1"}, []string{"192.0.3.1", "2001:db8::1"}},
		// The longest prefix decides, whichever list it is in.
		{prefixes("192.0.2.7/32"), prefixes("192.0.2.0/24"), []string{"192.0.2.7"}, []string{"192.0.2.8", "10.0.0.1"}},
		{prefixes("10.0.0.0/8"), prefixes("10.1.0.0/16"), []string{"10.2.0.1"}, []string{"10.1.0.1"}},
		{prefixes("10.0.0.0/8"), prefixes("10.0.0.0/8"), nil, []string{"10.1.0.1"}},
		{prefixes("0.0.0.0/0"), nil, []string{"1.2.3.4"}, []string{"2001:db8::1"}},
		{prefixes("10.0.0.5/8"), nil, []string{"10.9.9.9"}, []string{"11.0.0.1"}}, // host bits do not matter
	} {
		g := New(anyTime)
		g.Set(Rules{Allow: tc.allow, Deny: tc.deny})
		for want, addrs := range map[Verdict][]string{Admitted: tc.in, Denied: tc.out} {
			for _, a := range addrs {
				if _, got := g.Admit(addr(a), anyTime); got != want {
					t.Errorf("allow %v, deny %v: %s is %d, want %d", tc.allow, tc.deny, a, got, want)
				}
			}
		}
	}
}

// TestConnections: each client has so many places; one that leaves frees its
// own, and all of a prefix are one client.
func TestConnections(t *testing.T) {
	g := New(anyTime)
	g.Set(Rules{Connections: 2})
	admit := func(a string) (Seat, Verdict) { return g.Admit(addr(a), anyTime) }
	s1, _ := admit("192.0.2.1")
	_, _ = admit("::ffff:192.0.2.1")
	if _, v := admit("192.0.2.1"); v != TooMany {
		t.Errorf("the third is %d, want too many", v)
	}
	if _, v := admit("192.0.2.2"); v != Admitted {
		t.Errorf("another client is %d, want admitted", v)
	}
	g.Leave(addr("192.0.2.1"), s1)
	if _, v := admit("192.0.2.1"); v != Admitted {
		t.Errorf("after one has left: %d, want admitted", v)
	}
	for i, want := range []Verdict{Admitted, Admitted, TooMany} {
		if _, v := admit(fmt.Sprintf("2001:db8::%d", i+1)); v != want {
			t.Errorf("address %d of a /64 is %d, want %d", i, v, want)
		}
	}
	if _, v := admit("2001:db8:0:1::1"); v != Admitted {
		t.Errorf("the next /64 is %d, want admitted", v)
	}
}

// TestRulesChange: who came under other rules leaves the place that it took.
func TestRulesChange(t *testing.T) {
	g := New(anyTime)
	a := addr("192.0.2.1")
	uncounted, _ := g.Admit(a, anyTime)
	g.Set(Rules{Connections: 1})
	counted, v := g.Admit(a, anyTime)
	if v != Admitted {
		t.Fatalf("the first that counts is %d, want admitted", v)
	}
	g.Leave(a, uncounted)
	g.Set(Rules{Connections: 1, IPv4Bits: 24})
	if _, v := g.Admit(addr("192.0.2.2"), anyTime); v != Admitted {
		t.Errorf("the first of its /24 is %d, want admitted", v)
	}
	g.Leave(a, counted)
	g.Set(Rules{Connections: 1})
	if _, v := g.Admit(a, anyTime); v != Admitted {
		t.Errorf("after it has left: %d, want admitted", v)
	}
}

// TestRate compares with the definition: a bucket of one second's connections,
// at least one, that refills at the rate.
func TestRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perSecond := rapid.SampledFrom([]float64{0.5, 1, 2, 10, 100}).Draw(t, "rate")
		size := max(perSecond, 1)
		g := New(anyTime)
		g.Set(Rules{Rate: perSecond})
		bucket, now := size, g.start
		for range rapid.IntRange(1, 200).Draw(t, "connections") {
			pause := time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "pause")) / time.Duration(rapid.SampledFrom([]int{1, 100}).Draw(t, "divisor"))
			now = now.Add(pause)
			bucket = min(bucket+perSecond*pause.Seconds(), size)
			_, v := g.Admit(addr("192.0.2.1"), now)
			const exact = 1e-6 // of rounding to nanoseconds, many times
			switch {
			case bucket >= 1+exact && v != Admitted:
				t.Fatalf("refused with %v in the bucket", bucket)
			case bucket < 1-exact && v != TooFast:
				t.Fatalf("verdict %d with %v in the bucket", v, bucket)
			}
			if v == Admitted {
				bucket--
			}
		}
	})
}

// TestRefusedLosesNothing: a client that hammers gets its rate all the same.
func TestRefusedLosesNothing(t *testing.T) {
	g := New(anyTime)
	g.Set(Rules{Rate: 10})
	admitted := 0
	for ms := range 10_000 {
		if _, v := g.Admit(addr("192.0.2.1"), g.start.Add(time.Duration(ms)*time.Millisecond)); v == Admitted {
			admitted++
		}
	}
	if admitted < 109 || admitted > 110 {
		t.Errorf("%d admitted in 10 s of hammering, want 10 at once and 10 a second: 110", admitted)
	}
}

// TestFlood: a million clients that come once each take no more memory than
// there is, and one that hammers meanwhile stays bounded.
func TestFlood(t *testing.T) {
	g := New(anyTime)
	g.Set(Rules{Rate: 10})
	admitted, bad := 0, addr("203.0.113.1")
	for i := range 1_000_000 { // in 10 s
		now := g.start.Add(time.Duration(i) * 10 * time.Microsecond)
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(i))
		_, _ = g.Admit(netip.AddrFrom4(b), now)
		if i%100 == 0 {
			if _, v := g.Admit(bad, now); v == Admitted {
				admitted++
			}
		}
	}
	if admitted > 110 {
		t.Errorf("%d of the hammering client admitted, want at most 110", admitted)
	}
	for i := range g.shards {
		if n := len(g.shards[i].rates); n != sets*ways {
			t.Fatalf("a shard keeps %d rates, want %d", n, sets*ways)
		}
		if n := len(g.shards[i].open); n != 0 {
			t.Fatalf("a shard counts %d clients without a bound on connections", n)
		}
	}
}

// TestConcurrent: whoever comes and goes beside others, no place is lost.
func TestConcurrent(t *testing.T) {
	const most = 5
	g := New(anyTime)
	g.Set(Rules{Connections: most})
	a := addr("192.0.2.1")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 2000 {
				if seat, v := g.Admit(a, anyTime); v == Admitted {
					g.Leave(a, seat)
				}
			}
		})
	}
	all.Wait()
	for i := range most {
		if _, v := g.Admit(a, anyTime); v != Admitted {
			t.Errorf("place %d is %d afterwards, want free", i, v)
		}
	}
	if _, v := g.Admit(a, anyTime); v != TooMany {
		t.Errorf("one more is %d, want too many", v)
	}
}

func TestAllocations(t *testing.T) {
	g := New(anyTime)
	g.Set(Rules{Deny: prefixes("192.0.2.0/24", "2001:db8::/32"), Connections: 10, Rate: 1e9})
	a := addr("198.51.100.1")
	if n := testing.AllocsPerRun(100, func() {
		seat, _ := g.Admit(a, anyTime)
		g.Leave(a, seat)
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkAdmit(b *testing.B) {
	for name, r := range map[string]Rules{
		"none": {}, "lists": {Deny: prefixes("192.0.2.0/24", "10.0.0.0/8")}, "all": {Deny: prefixes("192.0.2.0/24"), Connections: 10, Rate: 1e9},
	} {
		b.Run(name, func(b *testing.B) {
			g := New(anyTime)
			g.Set(r)
			a := addr("198.51.100.1")
			for b.Loop() {
				seat, _ := g.Admit(a, anyTime)
				g.Leave(a, seat)
			}
		})
	}
}
