package rights

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Bounds of what another POP may say. What is beyond is refused.
const (
	mostName   = 255     // bytes
	mostNames  = 4096    // POPs
	mostRights = 1 << 32 // of one POP with one backend
	mostTerm   = 1 << 48 // one a microsecond for nine years
)

// Key names what a message is about: of two with one key for one POP, the
// later says all that the earlier did.
func (m Message) Key() string {
	if m.Claim != nil {
		return "c" + m.Claim.Backend
	}
	return "g" + m.Grant.Backend
}

// Append adds the message, without To.
func (m Message) Append(b []byte) []byte {
	if c := m.Claim; c != nil {
		b = appendTerm(appendName(append(b, 'c'), c.Backend), c.Term)
		for _, n := range []uint64{c.Life, c.Seq, c.Grant, c.Ack, count(c.Held), count(c.Want)} {
			b = binary.AppendUvarint(b, n)
		}
		b = binary.AppendUvarint(appendFlags(b, c.Urgent), c.Version)
		b = binary.AppendUvarint(appendTerm(b, c.Kept.Term), c.Kept.Version)
		b = binary.AppendUvarint(appendEntries(b, c.Kept.Entries), uint64(len(c.Roster)))
		for _, name := range c.Roster {
			b = appendName(b, name)
		}
		return b
	}
	g := m.Grant
	b = appendTerm(appendName(append(b, 'g'), g.Backend), g.Term)
	for _, n := range []uint64{g.Seq, g.Life, g.Number, count(g.Rights), count(g.Limit)} {
		b = binary.AppendUvarint(b, n)
	}
	b = binary.AppendUvarint(appendFlags(b, g.Some, g.Short, g.Tight, g.Entries != nil), g.Version)
	if g.Entries != nil {
		b = appendEntries(b, g.Entries)
	}
	return b
}

func count(n int64) uint64 { return uint64(min(max(n, 0), mostRights)) }

func appendName(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTerm(b []byte, t Term) []byte {
	return appendName(binary.AppendUvarint(binary.AppendUvarint(b, t.N), t.Life), t.Home)
}

func appendFlags(b []byte, flags ...bool) []byte {
	var bits byte
	for i, on := range flags {
		if on {
			bits |= 1 << i
		}
	}
	return append(b, bits)
}

func appendEntries(b []byte, entries map[string]Entry) []byte {
	b = binary.AppendUvarint(b, uint64(len(entries)))
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		e := entries[name]
		b = binary.AppendUvarint(binary.AppendUvarint(appendName(b, name), count(e.Bound)), e.Life)
		b = binary.AppendUvarint(b, e.Voter)
	}
	return b
}

var errShort = errors.New("cut short")

// decoder takes a message apart. The first thing that is wrong stays in err.
type decoder struct {
	b   []byte
	err error
}

// Decode reads what Append wrote. It believes nothing, and keeps nothing of b.
func Decode(b []byte) (m Message, err error) {
	if len(b) == 0 {
		return m, fmt.Errorf("rights: %w", errShort)
	}
	d := &decoder{b: b[1:]}
	switch b[0] {
	case 'c':
		m.Claim = d.claim()
	case 'g':
		m.Grant = d.grant()
	default:
		return m, fmt.Errorf("rights: a message of kind %q", b[0])
	}
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("%d bytes too many", len(d.b))
	}
	if d.err != nil {
		return Message{}, fmt.Errorf("rights: %w", d.err)
	}
	return m, nil
}

func (d *decoder) claim() *Claim {
	c := &Claim{Backend: d.name(), Term: d.term(), Life: d.uint(), Seq: d.uint(), Grant: d.uint(), Ack: d.uint(), Held: d.rights(), Want: d.rights()}
	c.Urgent = d.flags(1) != 0
	c.Version = d.uint()
	c.Kept = Ledger{Term: d.term(), Version: d.uint(), Entries: d.entries()}
	for range d.length(mostNames, 1) {
		c.Roster = append(c.Roster, d.name())
	}
	return c
}

func (d *decoder) grant() *Grant {
	g := &Grant{Backend: d.name(), Term: d.term(), Seq: d.uint(), Life: d.uint(), Number: d.uint(), Rights: d.rights(), Limit: d.rights()}
	flags := d.flags(4)
	g.Some, g.Short, g.Tight = flags&1 != 0, flags&2 != 0, flags&4 != 0
	g.Version = d.uint()
	if flags&8 != 0 {
		g.Entries = d.entries()
	}
	return g
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err, d.b = err, nil
	}
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail(errShort)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) upTo(most uint64) uint64 {
	v := d.uint()
	if v > most {
		d.fail(fmt.Errorf("%d, at most %d are believed", v, most))
		return 0
	}
	return v
}

func (d *decoder) rights() int64 { return int64(d.upTo(mostRights)) }

func (d *decoder) name() string {
	n := d.upTo(mostName)
	if n > uint64(len(d.b)) {
		d.fail(errShort)
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) term() Term { return Term{N: d.upTo(mostTerm), Life: d.uint(), Home: d.name()} }

func (d *decoder) flags(n int) byte {
	if len(d.b) == 0 {
		d.fail(errShort)
		return 0
	}
	f := d.b[0]
	d.b = d.b[1:]
	if f >= 1<<n {
		d.fail(fmt.Errorf("flags %x", f))
	}
	return f
}

// length is how many things follow, each of at least size bytes: a lie about
// it takes no memory.
func (d *decoder) length(most uint64, size int) int {
	n := d.upTo(most)
	if n > uint64(len(d.b)/size) {
		d.fail(errShort)
		return 0
	}
	return int(n)
}

func (d *decoder) entries() map[string]Entry {
	n := d.length(mostNames, 4)
	entries := make(map[string]Entry, n)
	for range n {
		name := d.name()
		entries[name] = Entry{Bound: d.rights(), Life: d.uint(), Voter: d.uint()}
	}
	return entries
}
