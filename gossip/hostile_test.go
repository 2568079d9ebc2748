package gossip

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

func tlsClient(conn net.Conn, as *pop, to string) *tls.Conn {
	return tls.Client(conn, as.cfg.Credentials.ClientTLS(to))
}

// infiltrate connects to POP a as b, which does not run.
func infiltrate(l *lab, h hello) *rawPeer {
	l.t.Helper()
	a, b := l.pops["a"], l.pops["b"]
	raw, err := l.net.Host(b.ip).Dial(l.t.Context(), a.ip+":7947")
	if err != nil {
		l.t.Fatal(err)
	}
	conn := tlsClient(raw, b, "a")
	if err := conn.HandshakeContext(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = raw.Close() })
	r := &rawPeer{t: l.t, conn: conn, frames: newFrameReader(conn, 1<<20)}
	r.send(appendFrame(nil, kindHello, h.append))
	return r
}

func honest() hello {
	return hello{min: protocolMin, max: protocolMax, node: "b", nonce: "n", heads: crdt.Heads{}, horizon: crdt.Heads{}}
}

// made is heads of 40,000 made-up origins.
func made(from int) []byte {
	h := crdt.Heads{}
	for i := range 40_000 {
		h[crdt.Origin{Node: fmt.Sprint(from + i)}] = 1
	}
	return appendFrame(nil, kindHeads, headsFrame{heads: h}.append)
}

// part is one of a beat that goes on.
func part(origin string, seq uint64) []byte {
	return appendFrame(nil, kindBeat, beat{origin: origin, more: true, load: Load{Seq: seq}}.append)
}

func TestBadFrames(t *testing.T) {
	frame := func(k kind, body string) []byte {
		return appendFrame(nil, k, func(b []byte) []byte { return append(b, body...) })
	}
	tooLong := binary.BigEndian.AppendUint32(nil, 1<<30)
	for _, c := range []struct {
		name  string
		bytes []byte
		close bool
		count func(Stats) uint64
	}{
		{"unknown kind", frame(99, ""), false, func(s Stats) uint64 { return s.Garbage }},
		{"no kind", []byte{0, 0, 0, 0, 0}, false, func(s Stats) uint64 { return s.Garbage }},
		{"second hello", frame(kindHello, ""), false, func(s Stats) uint64 { return s.Garbage }},
		{"not a delta", frame(kindDelta, "\x00\x00\x00nonsense"), false, func(s Stats) uint64 { return s.Garbage }},
		{"heads cut short", frame(kindHeads, "\x01\x05"), false, func(s Stats) uint64 { return s.Garbage }},
		{"part of no pull", appendFrame(nil, kindDelta, deltaFrame{pull: 7}.append), false, func(s Stats) uint64 { return s.Garbage }},
		{"end of no pull", appendFrame(nil, kindPulled, pulledFrame{id: 7}.append), false, func(s Stats) uint64 { return s.Garbage }},
		{"sums for nobody", appendFrame(nil, kindSums, sumsFrame{}.append), false, func(s Stats) uint64 { return s.Garbage }},
		{"bucket 5000", appendFrame(nil, kindRows, rowsFrame{buckets: []int{5000}}.append), false, func(s Stats) uint64 { return s.Garbage }},
		{"a link of no mode", frame(kindLink, "\x09"), false, func(s Stats) uint64 { return s.Garbage }},
		{"a prune cut short", frame(kindPrune, "\x05\x01"), false, func(s Stats) uint64 { return s.Garbage }},
		{"a graft of no name", frame(kindGraft, "\x00\x01\x00"), false, func(s Stats) uint64 { return s.Garbage }},
		{"a beat of no load", frame(kindBeat, "\x01a\x00\x00\x00\x00\x00"), false, func(s Stats) uint64 { return s.Garbage }},
		{"parts of two beats", append(part("x", 1), part("y", 1)...), false, func(s Stats) uint64 { return s.Garbage }},
		{"parts without end", bytes.Repeat(part("x", 1), maxBeatParts+2), false, func(s Stats) uint64 { return s.Garbage }},
		{"a census cut short", frame(kindCensus, "\x01\x05"), false, func(s Stats) uint64 { return s.Garbage }},
		{"heads of everybody", append(made(0), made(40_000)...), false, func(s Stats) uint64 { return s.Garbage }},
		{"a gigabyte", append(tooLong, byte(kindDelta), 1, 2, 3), false, func(s Stats) uint64 { return s.Oversized }},
		{"half a frame", []byte{0, 0, 1, 0, byte(kindHeads), 1}, true, func(s Stats) uint64 { return s.Truncated }},
		{"half a header", []byte{0, 0}, true, func(s Stats) uint64 { return s.Truncated }},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, memnet.Config{Latency: region}, "a b c", nil, func(t *testing.T, l *lab) {
				l.pops["a"].start()
				l.pops["c"].start()
				a := l.pops["a"]
				r := infiltrate(l, honest())
				if r.until(kindHello) == nil {
					t.Fatal("not let in")
				}
				l.within(time.Second, "connected", func() bool { return l.connected() == 3 })
				r.send(c.bytes)
				if c.close {
					_ = r.conn.(*tls.Conn).NetConn().Close()
				}
				l.within(time.Second, "let go", func() bool { return l.connected() == 2 })
				if s := a.mesh.Stats(); c.count(s) != 1 || s.Garbage+s.Oversized+s.Truncated != 1 {
					t.Errorf("counted %+v", s)
				}
				if bye := r.until(kindBye); !c.close && bye == nil {
					t.Error("no word of why")
				}
				a.write("x", 1)
				l.within(time.Second, "at c", func() bool { return l.pops["c"].weight("x") == 1 })
			})
		})
	}
}

func TestBadHello(t *testing.T) {
	future := honest()
	future.min, future.max = 7, 9
	liar := honest()
	liar.node = "c"
	for name, c := range map[string]struct {
		hello hello
		want  string
	}{
		"another version": {future, "upgrade the older"},
		"another's name":  {liar, "certificate says"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, memnet.Config{Latency: region}, "a b", nil, func(t *testing.T, l *lab) {
				l.pops["a"].start()
				body := infiltrate(l, c.hello).until(kindBye)
				if bye, err := decodeBye(body); err != nil || !strings.Contains(bye.text, c.want) {
					t.Errorf("says %q, %v; want a word of %q", bye.text, err, c.want)
				}
				if s := l.pops["a"].mesh.Stats(); s.HandshakesRefused != 1 {
					t.Errorf("counted %+v", s)
				}
			})
		})
	}
}

// TestSilentStrangers: who connects and says nothing is gone after five
// seconds, and keeps nobody out for longer.
func TestSilentStrangers(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b", func(c *Config) { c.Handshakes = 2 }, func(t *testing.T, l *lab) {
		l.pops["b"].start()
		for range 10 {
			conn, err := l.net.Host("10.9.9.9").Dial(t.Context(), l.pops["b"].ip+":7947")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		l.pops["a"].start()
		took := l.within(40*time.Second, "connected", func() bool { return l.connected() == 2 })
		t.Logf("after %v", took)
	})
}

// TestQuestionsWithoutListening: a peer that asks, and reads nothing.
func TestQuestionsWithoutListening(t *testing.T) {
	for name, ask := range map[string][]byte{
		"pings": bytes.Repeat(appendFrame(nil, kindPing, appendPing(1)), 1000),
		"pulls": appendFrame(nil, kindPull, pullFrame{id: 1, have: crdt.Heads{}}.append),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, memnet.Config{Latency: region}, "a b c", nil, func(t *testing.T, l *lab) {
				a, c := l.pops["a"], l.pops["c"]
				for i := range 5000 {
					a.write(strings.Repeat("x", 500)+string(rune('a'+i%26))+string(rune(i)), i)
				}
				a.start()
				c.start()
				l.within(10*time.Second, "equal", l.equal("a", "c"))
				r := infiltrate(l, honest())
				if r.until(kindHello) == nil {
					t.Fatal("not let in")
				}
				stop := time.Now().Add(50 * time.Second)
				go func() {
					for time.Now().Before(stop) {
						_ = r.conn.SetWriteDeadline(time.Now().Add(time.Second))
						if _, err := r.conn.Write(ask); err != nil {
							return
						}
						time.Sleep(10 * time.Millisecond)
					}
				}()
				for i := range 50 {
					a.write("x", i)
					l.within(100*time.Millisecond, "at c", func() bool { return c.weight("x") == int64(i) })
					time.Sleep(time.Second)
				}
				if l.connected() != 2 {
					t.Error("the peer is still there")
				}
				time.Sleep(5 * time.Second)
			})
		})
	}
}

// TestBadRecord: what cannot be read is refused by itself.
func TestBadRecord(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b", nil, func(t *testing.T, l *lab) {
		a := l.pops["a"]
		a.start()
		r := infiltrate(l, honest())
		if r.until(kindHello) == nil {
			t.Fatal("not let in")
		}
		theirs := crdt.NewReplica(crdt.Origin{Node: "b", Epoch: 1})
		d := theirs.Write(backend("good"), 1<<20, map[string]crdt.Value{"weight": crdt.IntValue(3)})
		bad := theirs.Write(backend("bad"), 1<<20, map[string]crdt.Value{"weight": crdt.TextValue(strings.Repeat("x", crdt.MaxRecord))})
		d.Records = append(bad.Records, d.Records...)
		d.Ranges = append(d.Ranges, bad.Ranges...)
		r.send(appendFrame(nil, kindDelta, deltaFrame{delta: d}.append))
		l.within(time.Second, "taken", func() bool { return a.weight("good") == 3 })
		if s := a.mesh.Stats(); s.RecordsRefused != 1 || s.Garbage != 0 {
			t.Errorf("counted %+v", s)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if f := a.applied[0].Refused; len(f) != 1 || f[0].Key != backend("bad") {
			t.Errorf("refused %v", f)
		}
	})
}
