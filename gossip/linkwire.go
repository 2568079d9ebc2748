package gossip

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// linkMode is what a side makes of a stream.
type linkMode byte

const (
	linkUnsaid linkMode = iota
	linkMesh            // its mesh is a full one: each sends what is its own
	linkYes             // the other is a neighbour of its choice
	linkNo              // a neighbour if the other wants it, else a line to talk on
	linkFull            // no neighbour: it has enough
)

func appendLink(m linkMode) func([]byte) []byte {
	return func(b []byte) []byte { return append(b, byte(m)) }
}

func decodeLink(b []byte) (linkMode, error) {
	r := &reader{b: b}
	m := linkMode(r.byte())
	if r.err == nil && (m == linkUnsaid || m > linkFull) {
		r.fail(fmt.Errorf("mode %d", m))
	}
	return m, r.end("link")
}

func appendOrigins(origins []string) func([]byte) []byte {
	return func(b []byte) []byte { return appendNames(b, origins) }
}

// decodeOrigins reads a prune.
func decodeOrigins(b []byte) ([]string, error) {
	r := &reader{b: b}
	origins := r.names()
	return origins, r.end("prune")
}

// graftFrame wants what these origins write from now on, and, to tell, all that
// is known of their load.
type graftFrame struct {
	tell    bool
	origins []string
}

func (f graftFrame) append(b []byte) []byte { return appendNames(appendBool(b, f.tell), f.origins) }

func decodeGraft(b []byte) (f graftFrame, err error) {
	r := &reader{b: b}
	f.tell, f.origins = r.bool(), r.names()
	return f, r.end("graft")
}

// beat is what a POP tells the whole mesh, passed on from neighbour to
// neighbour: that it lives, its clock, what it has, and its load.
type beat struct {
	origin string
	prev   uint64 // the beat that this one continues; nothing where the load is whole
	more   bool   // the next frame goes on with it
	said   bool   // the load is one, not just its number
	clock  int64  // raw, in µs, when it was made
	census int64  // the census up to which it has everything, 0: none
	load   Load   // Seq is the beat's number, of its Life
}

func (f beat) append(b []byte) []byte {
	b = binary.AppendUvarint(appendString(b, f.origin), f.prev)
	b = appendBool(appendBool(b, f.more), f.said)
	b = binary.AppendUvarint(binary.AppendVarint(b, f.clock), uint64(f.census))
	return f.load.append(b)
}

func decodeBeat(b []byte) (f beat, err error) {
	r := &reader{b: b}
	f.origin, f.prev = r.name(crdt.MaxName), r.uvarint()
	f.more, f.said = r.bool(), r.bool()
	f.clock = r.clock()
	f.census = r.census()
	if r.err != nil {
		return f, r.end("beat")
	}
	f.load, err = decodeLoad(r.b)
	return f, err
}

func (r *reader) census() int64 { return int64(r.atMost("ms of a census", math.MaxInt64)) }

// censusFrame asks all POPs to say when they have everything up to there.
type censusFrame struct {
	id    int64 // mesh time in ms; the latest one counts
	heads crdt.Heads
}

func (f censusFrame) append(b []byte) []byte {
	return appendHeads(binary.AppendUvarint(b, uint64(f.id)), f.heads)
}

func decodeCensus(b []byte) (f censusFrame, err error) {
	r := &reader{b: b}
	f.id, f.heads = r.census(), r.heads()
	return f, r.end("census")
}
