package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/identity"
)

// Versions of the protocol that this edgeproxy speaks.
const (
	protocolMin = 1
	protocolMax = protocolOverlay

	protocolLoad   = 2 // from which on a peer takes kindLoad
	protocolNote   = 3 // and kindNote
	protocolTables = 4 // and kindTables
	// And kindLink and all behind it. With older peers a POP keeps to a full mesh.
	protocolOverlay = 5
)

// kind is a frame's first byte. A frame is the length of the rest in four
// bytes, the kind, and the body.
type kind byte

const (
	kindHello   kind = iota + 1 // first in either direction, and only then
	kindDelta                   // records and ranges
	kindHeads                   // what the sender has now
	kindPull                    // what the sender has: wants the rest
	kindPulled                  // the end of the answer
	kindDigest                  // the sum over all rows, for comparison
	kindSums                    // the answer: the sums of the buckets
	kindRows                    // wants the rows of some buckets
	kindPing                    // wants a pong
	kindPong                    // the sender's clock
	kindKeyring                 // a keyring document
	kindBye                     // last, and why
	kindLoad                    // what the sender says of itself now
	kindNote                    // something that only this peer is told
	kindTables                  // of which tables the sender's records may be
	kindLink                    // what the sender makes of the stream
	kindPrune                   // wants no more pushes of what some origins write
	kindGraft                   // wants them again
	kindBeat                    // what a POP tells all others, passed on
	kindCensus                  // asks who has everything up to there
)

const (
	frameHeader = 5       // bytes: length and kind
	maxNonce    = 64      // bytes
	maxText     = 512     // bytes of a reason
	maxClock    = 1 << 52 // µs, 142 years: differences fit into a time.Duration
	maxPings    = 1 << 32 // numbers of pings, pulls: what follows is nobody's honest count
	maxKeyring  = identity.MaxKeyring
)

// appendFrame adds a frame whose body is what body appends.
func appendFrame(b []byte, k kind, body func([]byte) []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, byte(k))
	if body != nil {
		b = body(b)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

// hello introduces each side to the other.
type hello struct {
	min, max uint64 // protocol versions
	node     string
	nonce    string
	clock    int64 // raw, µs since 1970
	heads    crdt.Heads
	horizon  crdt.Heads
	keyring  []byte // empty: none
}

func (h hello) append(b []byte) []byte {
	b = binary.AppendUvarint(binary.AppendUvarint(b, h.min), h.max)
	b = appendString(appendString(b, h.node), h.nonce)
	b = binary.AppendVarint(b, h.clock)
	b = appendHeads(appendHeads(b, h.heads), h.horizon)
	return appendString(b, string(h.keyring))
}

// errVersion: nothing behind the versions was read.
var errVersion = errors.New("no protocol version in common")

func decodeHello(b []byte) (h hello, err error) {
	r := &reader{b: b}
	h.min, h.max = r.uvarint(), r.uvarint()
	if r.err == nil && (h.min > protocolMax || h.max < protocolMin) {
		return h, fmt.Errorf("%w: it speaks %d to %d, this edgeproxy %d to %d; upgrade the older of the two", errVersion, h.min, h.max, protocolMin, protocolMax)
	}
	h.node, h.nonce = r.name(crdt.MaxName), r.name(maxNonce)
	h.clock = r.clock()
	h.heads, h.horizon = r.heads(), r.heads()
	h.keyring = []byte(r.string(maxKeyring))
	return h, r.end("hello")
}

// heads frames carry what changed since the one before, a zero for an origin
// that is no longer known; whole ones replace what was said before.
type headsFrame struct {
	whole bool
	heads crdt.Heads
}

func (f headsFrame) append(b []byte) []byte { return appendHeads(appendBool(b, f.whole), f.heads) }

func decodeHeads(b []byte) (f headsFrame, err error) {
	r := &reader{b: b}
	f.whole, f.heads = r.bool(), r.heads()
	return f, r.end("heads")
}

type pullFrame struct {
	id   uint64 // from 1
	have crdt.Heads
}

func (f pullFrame) append(b []byte) []byte { return appendHeads(binary.AppendUvarint(b, f.id), f.have) }

func decodePull(b []byte) (f pullFrame, err error) {
	r := &reader{b: b}
	f.id, f.have = r.number(), r.heads()
	return f, r.end("pull")
}

// pulledFrame ends the answer to a pull. Heads is what the sender knew when it
// began: all of that has been sent. Failed: not so, ask again later. Horizon is
// up to where it has forgotten deletes by now.
type pulledFrame struct {
	id       uint64
	failed   bool
	snapshot bool // everything the sender has was sent, whatever the puller had
	heads    crdt.Heads
	horizon  crdt.Heads
}

func (f pulledFrame) append(b []byte) []byte {
	b = appendBool(appendBool(binary.AppendUvarint(b, f.id), f.failed), f.snapshot)
	return appendHeads(appendHeads(b, f.heads), f.horizon)
}

func decodePulled(b []byte) (f pulledFrame, err error) {
	r := &reader{b: b}
	f.id, f.failed, f.snapshot, f.heads, f.horizon = r.number(), r.bool(), r.bool(), r.heads(), r.heads()
	return f, r.end("pulled")
}

// deltaFrame is a crdt.Delta and what it is for.
type deltaFrame struct {
	pull     uint64 // part of the answer to this pull, else 0
	snapshot bool   // of an answer that holds everything
	repair   bool   // rows of buckets that differ
	delta    crdt.Delta
	refused  []crdt.Refusal // when read: records that could not be
}

func (f deltaFrame) append(b []byte) []byte {
	return f.delta.Append(appendBool(appendBool(binary.AppendUvarint(b, f.pull), f.snapshot), f.repair))
}

func decodeDelta(b []byte) (f deltaFrame, err error) {
	r := &reader{b: b}
	f.pull, f.snapshot, f.repair = r.uvarint(), r.bool(), r.bool()
	if r.err != nil {
		return f, r.end("delta")
	}
	f.delta, f.refused, err = crdt.DecodeDelta(r.b)
	return f, err
}

// pongFrame answers the ping of that number with the clock that mesh time is made of, in µs.
type pongFrame struct {
	id    uint64
	clock int64
}

func appendPing(id uint64) func([]byte) []byte {
	return func(b []byte) []byte { return binary.AppendUvarint(b, id) }
}

func decodePing(b []byte) (id uint64, err error) {
	r := &reader{b: b}
	id = r.number()
	return id, r.end("ping")
}

func (f pongFrame) append(b []byte) []byte {
	return binary.AppendVarint(binary.AppendUvarint(b, f.id), f.clock)
}

func decodePong(b []byte) (f pongFrame, err error) {
	r := &reader{b: b}
	f.id, f.clock = r.number(), r.clock()
	return f, r.end("pong")
}

// decodeKeyring copies the document, which only its owner can read.
func decodeKeyring(b []byte) ([]byte, error) {
	if len(b) > maxKeyring {
		return nil, fmt.Errorf("keyring: %d bytes, at most %d are taken", len(b), maxKeyring)
	}
	return bytes.Clone(b), nil
}

// byeCode says what the other side should make of the end.
type byeCode byte

const (
	byeEnd       byeCode = iota // this POP ends, or wants no stream with the other
	byeDuplicate                // there is another stream between the two
	byeConflict                 // another live node has the other's id
	byeRefused                  // not let in, or sent what it should not have
)

type byeFrame struct {
	code byeCode
	text string
}

func (f byeFrame) append(b []byte) []byte {
	return appendString(append(b, byte(f.code)), strings.ToValidUTF8(f.text[:min(len(f.text), maxText)], "?"))
}

func decodeBye(b []byte) (f byeFrame, err error) {
	r := &reader{b: b}
	f.code = byeCode(r.byte())
	if f.text = r.string(maxText); r.err == nil && !utf8.ValidString(f.text) {
		r.fail(errors.New("text that is not UTF-8"))
	}
	return f, r.end("bye")
}

// clockOf is a reading of it in µs, within what a frame may carry.
func clockOf(micro int64) int64 { return min(max(micro, -maxClock), maxClock) }

const minHead = 4 // bytes of an origin's head: name of one letter, epoch, head

func (r *reader) heads() crdt.Heads {
	n := r.count(minHead)
	h := make(crdt.Heads, n)
	for range n {
		o := crdt.Origin{Node: r.name(crdt.MaxName)}
		epoch := r.uvarint()
		if epoch > math.MaxUint32 {
			r.fail(fmt.Errorf("epoch %d of %s", epoch, o.Node))
		}
		o.Epoch = uint32(epoch)
		head := r.uvarint()
		if _, twice := h[o]; twice {
			r.fail(fmt.Errorf("two heads of %s", o))
		}
		if r.err != nil {
			return nil
		}
		h[o] = head
	}
	return h
}
