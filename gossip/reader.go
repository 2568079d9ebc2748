package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/edgeproxy/edgeproxy/crdt"
)

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendHeads(b []byte, h crdt.Heads) []byte {
	b = binary.AppendUvarint(b, uint64(len(h)))
	for _, o := range slices.SortedFunc(maps.Keys(h), crdt.Origin.Compare) {
		b = binary.AppendUvarint(appendString(b, o.Node), uint64(o.Epoch))
		b = binary.AppendUvarint(b, h[o])
	}
	return b
}

var errShort = errors.New("cut short")

// reader takes a body apart. The first thing that is wrong with it stays in
// err, and everything read after it is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err, r.b = err, nil
	}
}

// end is the verdict on the whole body.
func (r *reader) end(what string) error {
	if r.err == nil && len(r.b) > 0 {
		r.fail(fmt.Errorf("%d bytes too many", len(r.b)))
	}
	if r.err != nil {
		return fmt.Errorf("%s: %w", what, r.err)
	}
	return nil
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail(errShort)
		return nil
	}
	taken := r.b[:n:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) bool() bool {
	v := r.byte()
	if v > 1 {
		r.fail(fmt.Errorf("%d is neither yes nor no", v))
	}
	return v == 1
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail(errShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

// number is the number of a pull or ping, from 1.
func (r *reader) number() uint64 {
	v := r.uvarint()
	if r.err == nil && (v == 0 || v > maxPings) {
		r.fail(fmt.Errorf("number %d", v))
	}
	return v
}

func (r *reader) clock() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail(errShort)
		return 0
	}
	r.b = r.b[n:]
	if v != clockOf(v) {
		r.fail(fmt.Errorf("a clock at %d µs", v))
	}
	return v
}

func (r *reader) string(limit uint64) string {
	n := r.uvarint()
	if n > limit {
		r.fail(fmt.Errorf("%d bytes, at most %d are taken", n, limit))
		return ""
	}
	return string(r.bytes(n))
}

func (r *reader) name(limit uint64) string {
	s := r.string(limit)
	if r.err == nil && (s == "" || !utf8.ValidString(s) || strings.ContainsRune(s, 0)) {
		r.fail(fmt.Errorf("%q is not a name", s))
	}
	return s
}

// count reads how many things follow, each of at least size bytes, so that a
// lie about it cannot take memory.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/size) {
		r.fail(errShort)
		return 0
	}
	return int(n)
}
