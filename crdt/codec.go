package crdt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of what is taken from a peer. What is longer is refused by name.
const (
	MaxRecord = 32 << 10 // bytes of one encoded record
	MaxName   = 128      // bytes of a table's, a column's or a node's name
	MaxKey    = 1 << 10  // bytes of an encoded primary key
)

const deltaVersion = 1

// Delta is a part of what one POP knows. Ranges are the stretches of their
// origins' writes that the records cover, together with what the sender has
// sent before: a head moves over them once the records are merged.
type Delta struct {
	Ranges  []Range
	Records []Record

	// Horizon is set where the ranges come from all that another POP has: up to
	// there it has forgotten deletes, so that whoever takes its word for them
	// must send others away to a snapshot as well. It is no part of the encoding.
	Horizon Heads

	// Repair says that the records are all that a peer has of rows in which it
	// differs from here though heads do not. It is no part of the encoding.
	Repair bool

	// Declared are the tables that the sender said it has: rows of those that are
	// not known here are kept for others. It is no part of the encoding either.
	Declared map[string]bool

	// Alone says that it was sealed before any other POP was heard, by a clock
	// that may yet prove wrong: it is not to be sent. Who comes asks for it.
	Alone bool
}

// Refusal is a record that was not taken from a delta, and why. The other
// records of the delta are.
type Refusal struct {
	Key Key // as far as it could be read
	Err error
}

func (f Refusal) Error() string { return fmt.Sprintf("record %s: %v", f.Key, f.Err) }

// Append adds the delta's encoding to b. Names and origins are written once,
// times as distances from the earliest, each record with its length in front,
// so that one which cannot be read does not take the others with it.
func (d Delta) Append(b []byte) []byte {
	e := encoder{origins: map[Origin]uint64{}, names: map[string]uint64{}, base: math.MaxUint64}
	for _, g := range d.Ranges {
		e.origin(g.Origin)
	}
	for _, rec := range d.Records {
		rec.Owners(func(s Stamp) bool {
			e.origin(s.Origin)
			e.base = min(e.base, s.Time)
			return true
		})
		e.name(rec.Table)
		for _, c := range rec.Cells {
			e.name(c.Column)
		}
	}
	b = append(b, deltaVersion)
	b = binary.AppendUvarint(b, uint64(len(e.originList)))
	for _, o := range e.originList {
		b = binary.AppendUvarint(appendString(b, o.Node), uint64(o.Epoch))
	}
	b = binary.AppendUvarint(b, uint64(len(e.nameList)))
	for _, name := range e.nameList {
		b = appendString(b, name)
	}
	b = binary.AppendUvarint(b, uint64(e.base))
	b = binary.AppendUvarint(b, uint64(len(d.Ranges)))
	for _, g := range d.Ranges {
		b = binary.AppendUvarint(b, e.origins[g.Origin])
		b = binary.AppendUvarint(b, g.From)
		b = binary.AppendUvarint(b, g.To)
	}
	b = binary.AppendUvarint(b, uint64(len(d.Records)))
	for _, rec := range d.Records {
		e.scratch = e.record(e.scratch[:0], rec)
		b = append(binary.AppendUvarint(b, uint64(len(e.scratch))), e.scratch...)
	}
	return b
}

type encoder struct {
	origins    map[Origin]uint64
	originList []Origin
	names      map[string]uint64
	nameList   []string
	base       Time
	stamps     []Stamp // of the record being written
	scratch    []byte
}

func (e *encoder) origin(o Origin) {
	if _, ok := e.origins[o]; !ok {
		e.origins[o] = uint64(len(e.originList))
		e.originList = append(e.originList, o)
	}
}

func (e *encoder) name(s string) {
	if _, ok := e.names[s]; !ok {
		e.names[s] = uint64(len(e.nameList))
		e.nameList = append(e.nameList, s)
	}
}

// record: table, key, the different stamps, which of them is the delete (0 for
// none, else its place from 1), then the cells, each with its stamp's place.
func (e *encoder) record(b []byte, rec Record) []byte {
	e.stamps = e.stamps[:0]
	rec.Owners(func(s Stamp) bool {
		if !slices.Contains(e.stamps, s) {
			e.stamps = append(e.stamps, s)
		}
		return true
	})
	b = binary.AppendUvarint(b, e.names[rec.Table])
	b = appendString(b, rec.PK)
	b = binary.AppendUvarint(b, uint64(len(e.stamps)))
	for _, s := range e.stamps {
		b = binary.AppendUvarint(b, uint64(s.Time-e.base))
		b = binary.AppendUvarint(b, e.origins[s.Origin])
		b = binary.AppendUvarint(b, s.Seq)
	}
	b = binary.AppendUvarint(b, uint64(1+slices.Index(e.stamps, rec.Dead)))
	b = binary.AppendUvarint(b, uint64(len(rec.Cells)))
	for _, c := range rec.Cells {
		b = binary.AppendUvarint(b, e.names[c.Column])
		b = binary.AppendUvarint(b, uint64(slices.Index(e.stamps, c.Stamp)))
		b = c.Value.Append(b)
	}
	return b
}

// DecodeDelta reads what Append wrote. An error means that the frame is not a
// delta; a record that makes no sense by itself is a Refusal beside the others.
func DecodeDelta(b []byte) (d Delta, refused []Refusal, err error) {
	r := &reader{b: b}
	if v := r.byte(); r.err == nil && v != deltaVersion {
		return d, nil, fmt.Errorf("delta of version %d, this edgeproxy reads %d", v, deltaVersion)
	}
	dec := decoder{origins: make([]Origin, r.count(2))}
	for i := range dec.origins {
		dec.origins[i] = r.origin()
	}
	dec.names = make([]string, r.count(2))
	for i := range dec.names {
		dec.names[i] = r.name("a table or column")
	}
	dec.base = Time(r.uvarint())
	d.Ranges = make([]Range, r.count(3))
	for i := range d.Ranges {
		d.Ranges[i] = Range{Origin: pick(r, dec.origins), From: r.uvarint(), To: r.uvarint()}
		if g := d.Ranges[i]; g.From > g.To {
			r.fail(fmt.Errorf("a range from %d to %d", g.From, g.To))
		}
	}
	n := r.count(8)
	d.Records = make([]Record, 0, n)
	for range n {
		size := r.uvarint()
		body := r.bytes(size)
		if r.err != nil {
			break
		}
		rec, err := dec.record(&reader{b: body}, size)
		if err != nil {
			refused = append(refused, Refusal{Key: rec.Key, Err: err})
			continue
		}
		d.Records = append(d.Records, rec)
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail(fmt.Errorf("%d bytes too many", len(r.b)))
	}
	if r.err != nil {
		return Delta{}, nil, fmt.Errorf("delta: %w", r.err)
	}
	return d, refused, nil
}

// pick reads a place in a list.
func pick[T any](r *reader, list []T) (v T) {
	i := r.uvarint()
	if i >= uint64(len(list)) {
		r.fail(fmt.Errorf("place %d in a list of %d", i, len(list)))
		return v
	}
	return list[i]
}

func (r *reader) name(of string) string {
	s := r.string()
	switch {
	case r.err != nil:
	case s == "":
		r.fail(fmt.Errorf("%s without a name", of))
	case len(s) > MaxName:
		r.fail(fmt.Errorf("the name of %s has %d bytes, at most %d are taken", of, len(s), MaxName))
	case !utf8.ValidString(s) || strings.ContainsRune(s, 0):
		r.fail(fmt.Errorf("the name of %s is not text: %q", of, s))
	}
	return s
}

func (r *reader) origin() Origin {
	o := Origin{Node: r.name("a node")}
	epoch := r.uvarint()
	if epoch > math.MaxUint32 {
		r.fail(fmt.Errorf("epoch %d of %s", epoch, o.Node))
	}
	o.Epoch = uint32(epoch)
	return o
}

type decoder struct {
	origins []Origin
	names   []string
	base    Time
	stamps  []Stamp // of the record being read
}

func (d *decoder) record(r *reader, size uint64) (rec Record, err error) {
	rec.Table = pick(r, d.names)
	rec.PK = r.string()
	if r.err == nil {
		r.fail(checkKey(rec.Key, size))
	}
	d.stamps = d.stamps[:0]
	for range r.count(3) {
		d.stamps = append(d.stamps, r.stamp(d))
	}
	if place := r.uvarint(); place > uint64(len(d.stamps)) {
		r.fail(errors.New("its delete has no stamp"))
	} else if place > 0 {
		rec.Dead = d.stamps[place-1]
	}
	rec.Cells = make([]Cell, r.count(3))
	for i := range rec.Cells {
		rec.Cells[i] = Cell{Column: pick(r, d.names), Stamp: pick(r, d.stamps), Value: r.value()}
		if r.err == nil && i > 0 && rec.Cells[i-1].Column >= rec.Cells[i].Column {
			r.fail(fmt.Errorf("column %s stands behind %s", rec.Cells[i].Column, rec.Cells[i-1].Column))
		}
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail(fmt.Errorf("%d bytes too many", len(r.b)))
	}
	if r.err == nil && len(rec.Cells) == 0 && rec.Dead.IsZero() {
		r.fail(errors.New("it says nothing: no column and no delete"))
	}
	return rec, r.err
}

func (r *reader) stamp(d *decoder) Stamp {
	distance := r.uvarint()
	s := Stamp{Time: d.base + Time(distance), Origin: pick(r, d.origins), Seq: r.uvarint()}
	if s.Time < d.base {
		r.fail(errors.New("a time beyond all times"))
	}
	if r.err == nil && (s.Time == 0 || s.Seq == 0) {
		r.fail(fmt.Errorf("a stamp of nothing: time %d, number %d", s.Time, s.Seq))
	}
	return s
}

func checkKey(k Key, size uint64) error {
	if size > MaxRecord {
		return fmt.Errorf("it has %d bytes, at most %d are taken", size, MaxRecord)
	}
	if len(k.PK) > MaxKey {
		return fmt.Errorf("its primary key has %d bytes, at most %d are taken", len(k.PK), MaxKey)
	}
	columns, err := k.Columns()
	if err != nil {
		return err
	}
	if len(columns) == 0 || slices.Contains(columns, Value{}) {
		return errors.New("its primary key is NULL")
	}
	return nil
}

// Size is about how many bytes the record takes in a delta, names and origins
// apart, which a delta holds once.
func (r Record) Size() int {
	size := len(r.PK) + 24
	for _, c := range r.Cells {
		size += 4 + len(c.Value.str)
		if c.Value.kind == Int || c.Value.kind == Real {
			size += 6
		}
		if c.Stamp != r.Cells[0].Stamp {
			size += 12
		}
	}
	return size
}

// Check says whether a peer would take the record: an error names the limit
// that it breaks.
func (r Record) Check() error {
	_, refused, err := DecodeDelta(Delta{Records: []Record{r}}.Append(nil))
	if err != nil {
		return err
	}
	if len(refused) > 0 {
		return refused[0].Err
	}
	return nil
}

// Split cuts a delta into frames of about limit bytes and at least one record.
// The ranges are the last frame's: they hold only once all records are there.
func (d Delta) Split(limit int) []Delta {
	var frames []Delta
	start, size := 0, 0
	for i, rec := range d.Records {
		n := rec.Size()
		if i > start && size+n > limit {
			frames = append(frames, Delta{Records: d.Records[start:i]})
			start, size = i, 0
		}
		size += n
	}
	return append(frames, Delta{Ranges: d.Ranges, Records: d.Records[start:]})
}
