package gossip

import (
	"bytes"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// frameSamples is one of each kind that a peer can send.
func frameSamples() [][]byte {
	heads := crdt.Heads{{Node: "a", Epoch: 1}: 7, {Node: "b", Epoch: 2}: 1 << 40}
	r := crdt.NewReplica(crdt.Origin{Node: "a", Epoch: 1})
	d := r.Write(backend("x"), 1<<30, map[string]crdt.Value{"weight": crdt.IntValue(1), "app": crdt.TextValue("myapp")})
	sums := make([]crdt.Sum, crdt.Buckets)
	sums[3] = crdt.Sum{1, 2}
	return [][]byte{
		appendFrame(nil, kindHello, hello{min: 1, max: 1, node: "a", nonce: "n", clock: -5, heads: heads, horizon: heads, keyring: []byte("{}")}.append),
		appendFrame(nil, kindDelta, deltaFrame{delta: d}.append),
		appendFrame(nil, kindDelta, deltaFrame{pull: 3, snapshot: true, repair: true, delta: d}.append),
		appendFrame(nil, kindHeads, headsFrame{whole: true, heads: heads}.append),
		appendFrame(nil, kindPull, pullFrame{id: 1, have: heads}.append),
		appendFrame(nil, kindPulled, pulledFrame{id: 1, failed: true, snapshot: true, heads: heads}.append),
		appendFrame(nil, kindDigest, digestFrame{heads: heads, horizon: heads, sum: crdt.Sum{1, 2}}.append),
		appendFrame(nil, kindSums, sumsFrame{horizon: heads, sums: sums}.append),
		appendFrame(nil, kindSums, sumsFrame{}.append),
		appendFrame(nil, kindRows, rowsFrame{horizon: heads, buckets: []int{0, 5, 1023}}.append),
		appendFrame(nil, kindPing, appendPing(1)),
		appendFrame(nil, kindPong, pongFrame{id: 1, clock: maxClock}.append),
		appendFrame(nil, kindKeyring, func(b []byte) []byte { return append(b, "{}"...) }),
		appendFrame(nil, kindKeyring, nil),
		appendFrame(nil, kindLoad, Load{
			Life: 7, Age: time.Second, Whole: true, Counts: map[string]int64{"sa-1": 0, "sa-2": MaxLoadCount},
			Rates:     []LoadRate{{"", "sa", 0.5}, {"app", "us", MaxLoadRate}, {"app", "eu", 4.084}},
			Verdicts:  map[string]LoadVerdict{"sa-1": {Up: true, For: time.Hour}, "sa-2": {Why: "connection refused", For: MaxLoadFor}},
			Unchecked: []string{"sa-3"}, Suspects: []string{"sa-2"},
		}.append),
		appendFrame(nil, kindNote, Note{Key: "cb", Body: []byte("xyz")}.append),
		appendFrame(nil, kindTables, tablesFrame{[]string{"backends", "of tomorrow"}}.append),
		appendFrame(nil, kindLink, appendLink(linkYes)),
		appendFrame(nil, kindPrune, appendOrigins([]string{"a", "b"})),
		appendFrame(nil, kindGraft, graftFrame{tell: true, origins: []string{"a"}}.append),
		appendFrame(nil, kindBeat, beat{
			origin: "a", prev: 3, more: true, said: true, clock: -maxClock, census: 1 << 40,
			load: Load{Life: 1, Seq: 4, Age: time.Second, Counts: map[string]int64{"sa-1": 2}, Suspects: []string{"sa-2"}},
		}.append),
		appendFrame(nil, kindCensus, censusFrame{id: 1 << 40, heads: heads}.append),
		appendFrame(nil, kindBye, byeFrame{code: byeConflict, text: "why"}.append),
	}
}

// decoded is what a body says, encoded again.
func decoded(k kind, body []byte) (f any, again []byte, err error) {
	switch k {
	case kindHello:
		return reencode(decodeHello, body, hello.append)
	case kindDelta:
		return reencode(decodeDelta, body, deltaFrame.append)
	case kindHeads:
		return reencode(decodeHeads, body, headsFrame.append)
	case kindPull:
		return reencode(decodePull, body, pullFrame.append)
	case kindPulled:
		return reencode(decodePulled, body, pulledFrame.append)
	case kindDigest:
		return reencode(decodeDigest, body, digestFrame.append)
	case kindSums:
		return reencode(decodeSums, body, sumsFrame.append)
	case kindRows:
		return reencode(decodeRows, body, rowsFrame.append)
	case kindPing:
		return reencode(decodePing, body, func(id uint64, b []byte) []byte { return appendPing(id)(b) })
	case kindPong:
		return reencode(decodePong, body, pongFrame.append)
	case kindKeyring:
		// As text: an empty document is an empty one, nil or not.
		asText := func(b []byte) (string, error) { d, err := decodeKeyring(b); return string(d), err }
		return reencode(asText, body, func(d string, b []byte) []byte { return append(b, d...) })
	case kindLoad:
		return reencode(decodeLoad, body, Load.append)
	case kindTables:
		return reencode(decodeTables, body, tablesFrame.append)
	case kindNote:
		return reencode(decodeNote, body, Note.append)
	case kindLink:
		return reencode(decodeLink, body, func(m linkMode, b []byte) []byte { return appendLink(m)(b) })
	case kindPrune:
		return reencode(decodeOrigins, body, func(o []string, b []byte) []byte { return appendOrigins(o)(b) })
	case kindGraft:
		return reencode(decodeGraft, body, graftFrame.append)
	case kindBeat:
		return reencode(decodeBeat, body, beat.append)
	case kindCensus:
		return reencode(decodeCensus, body, censusFrame.append)
	case kindBye:
		return reencode(decodeBye, body, byeFrame.append)
	}
	return nil, nil, fmt.Errorf("kind %d", k)
}

func reencode[T any](decode func([]byte) (T, error), body []byte, encode func(T, []byte) []byte) (any, []byte, error) {
	f, err := decode(body)
	if err != nil {
		return nil, nil, err
	}
	return f, encode(f, nil), nil
}

func TestFramesComeBack(t *testing.T) {
	for _, sample := range frameSamples() {
		k, body, err := newFrameReader(bytes.NewReader(sample), 1<<20).next()
		if err != nil {
			t.Fatal(err)
		}
		_, again, err := decoded(k, body)
		if err != nil || !bytes.Equal(again, body) {
			t.Errorf("kind %d: %x came back as %x, %v", k, body, again, err)
		}
		for n := 0; n < len(sample)-1; n += 1 + len(sample)/500 { // cut anywhere
			if _, _, err := newFrameReader(bytes.NewReader(sample[:n]), 1<<20).next(); err == nil {
				t.Errorf("kind %d: whole after %d of %d bytes", k, n, len(sample))
			}
			if n < len(body) && k != kindKeyring {
				if _, _, err := decoded(k, body[:n]); err == nil {
					t.Errorf("kind %d: decoded %d of %d bytes", k, n, len(body))
				}
			}
		}
	}
}

// FuzzFrame: whatever comes, it is decoded or refused; and what was decoded
// means the same when it is sent on.
func FuzzFrame(f *testing.F) {
	for _, sample := range frameSamples() {
		f.Add(sample)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frames := newFrameReader(bytes.NewReader(b), 1<<20)
		for {
			k, body, err := frames.next()
			if err != nil {
				return
			}
			first, again, err := decoded(k, body)
			if err != nil {
				continue
			}
			second, _, err := decoded(k, again)
			if err != nil {
				t.Fatalf("kind %d: %x was decoded, its encoding %x not: %v", k, body, again, err)
			}
			if d, ok := first.(deltaFrame); ok { // refused records are not sent on
				d.refused = nil
				first = d
			}
			if !reflect.DeepEqual(first, second) {
				t.Fatalf("kind %d: %+v came back as %+v", k, first, second)
			}
		}
	})
}
