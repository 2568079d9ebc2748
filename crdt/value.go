package crdt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// Kind is one of SQLite's five storage classes.
type Kind uint8

const (
	Null Kind = iota
	Int
	Real
	Text
	Blob
)

// Value is what one column of one row holds. The zero Value is NULL. Values
// compare with ==, which is the order's equality: 1 and 1.0 are two values.
type Value struct {
	kind Kind
	num  uint64 // the integer or the float's bits
	str  string // the text or the blob
}

func IntValue(v int64) Value    { return Value{kind: Int, num: uint64(v)} }
func RealValue(v float64) Value { return Value{kind: Real, num: math.Float64bits(v)} }
func TextValue(v string) Value  { return Value{kind: Text, str: v} }
func BlobValue(v []byte) Value  { return Value{kind: Blob, str: string(v)} }

// ValueOf is the Value of what database/sql hands out for a column: nil,
// int64, float64, string or []byte. Any other type, a bool or a time for
// instance, which drivers make of declared types, is an error.
func ValueOf(v any) (Value, error) {
	switch v := v.(type) {
	case nil:
		return Value{}, nil
	case int64:
		return IntValue(v), nil
	case float64:
		return RealValue(v), nil
	case string:
		return TextValue(v), nil
	case []byte:
		return BlobValue(v), nil
	}
	return Value{}, fmt.Errorf("a value of type %T is none of SQLite's", v)
}

func (v Value) Kind() Kind { return v.kind }

// Any is the value as database/sql takes it.
func (v Value) Any() any {
	switch v.kind {
	case Int:
		return int64(v.num)
	case Real:
		return math.Float64frombits(v.num)
	case Text:
		return v.str
	case Blob:
		return []byte(v.str)
	}
	return nil
}

func (v Value) String() string {
	switch v.kind {
	case Int:
		return strconv.FormatInt(int64(v.num), 10)
	case Real:
		return strconv.FormatFloat(math.Float64frombits(v.num), 'g', -1, 64)
	case Text:
		return strconv.Quote(v.str)
	case Blob:
		return fmt.Sprintf("x'%x'", v.str)
	}
	return "NULL"
}

// Append adds the value's only encoding to b: a byte of kind, then for numbers
// a varint or the float's eight bytes, for text and blobs a length and the
// bytes.
func (v Value) Append(b []byte) []byte {
	b = append(b, byte(v.kind))
	switch v.kind {
	case Int:
		b = binary.AppendVarint(b, int64(v.num))
	case Real:
		b = binary.BigEndian.AppendUint64(b, v.num)
	case Text, Blob:
		b = appendString(b, v.str)
	}
	return b
}

// compare orders values as their encodings do.
func (v Value) compare(w Value) int {
	if v == w {
		return 0
	}
	return bytes.Compare(v.Append(nil), w.Append(nil))
}

// value reads what Append wrote.
func (r *reader) value() (v Value) {
	switch v.kind = Kind(r.byte()); v.kind {
	case Null:
	case Int:
		v.num = uint64(r.varint())
	case Real:
		if b := r.bytes(8); b != nil {
			v.num = binary.BigEndian.Uint64(b)
		}
		if math.IsNaN(math.Float64frombits(v.num)) {
			r.fail(errors.New("a number that is none (NaN), which SQLite holds as NULL"))
		}
	case Text:
		if v.str = r.string(); !utf8.ValidString(v.str) {
			r.fail(errors.New("text that is not UTF-8"))
		}
	case Blob:
		v.str = r.string()
	default:
		r.fail(fmt.Errorf("kind of value %d", v.kind))
	}
	return v
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errShort = errors.New("cut short")

// reader takes an encoding apart. The first thing that is wrong with it stays
// in err, and everything read after it is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil && err != nil {
		r.err, r.b = err, nil
	}
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

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if !r.minimal(n) {
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if !r.minimal(n) {
		return 0
	}
	r.b = r.b[n:]
	return v
}

// minimal says whether a varint of n bytes is there and is the number's only
// encoding: with two of them one row could have two keys.
func (r *reader) minimal(n int) bool {
	if n <= 0 {
		r.fail(errShort)
		return false
	}
	if n > 1 && r.b[n-1] == 0 {
		r.fail(errors.New("a number longer than it must be"))
		return false
	}
	return true
}

func (r *reader) string() string { return string(r.bytes(r.uvarint())) }

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
