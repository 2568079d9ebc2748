package crdt

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash/fnv"
)

// Buckets is into how many parts the rows fall for the digest by which two
// POPs find where they differ.
const Buckets = 1024

// Bucket is the part that a row falls into, from 0.
func (k Key) Bucket() int {
	h := fnv.New32a()
	h.Write([]byte(k.Table))
	h.Write([]byte{0})
	h.Write([]byte(k.PK))
	return int(h.Sum32() % Buckets)
}

// Sum is a hash of a set of rows: the sum of their hashes, so that it does not
// depend on their order, and one row's change is taken out and put in again
// without looking at the others. It finds accidents; nobody is kept from
// making two sets with one sum on purpose.
type Sum [2]uint64

// Plus adds the rows of another sum.
func (s Sum) Plus(t Sum) Sum { return Sum{s[0] + t[0], s[1] + t[1]} }

// Minus takes the rows of another sum out.
func (s Sum) Minus(t Sum) Sum { return Sum{s[0] - t[0], s[1] - t[1]} }

// Append adds the sum's 16 bytes to b.
func (s Sum) Append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, s[0]), s[1])
}

// String is the sum as 32 hexadecimal digits.
func (s Sum) String() string { return hex.EncodeToString(s.Append(nil)) }

// SumOf reads what Append wrote. Bytes of another length are the zero Sum.
func SumOf(b []byte) Sum {
	if len(b) != 16 {
		return Sum{}
	}
	return Sum{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func hash(b []byte) Sum {
	h := sha256.Sum256(b)
	return SumOf(h[:16])
}

// Values hashes what a reader of the row sees: key and values, without stamps.
// A dead row is nothing, and NULL is what a column has that was never written.
func (r Record) Values() Sum {
	if !r.Live() {
		return Sum{}
	}
	b := appendString(appendString(nil, r.Table), r.PK)
	for _, c := range r.Cells {
		if c.Value.kind != Null {
			b = c.Value.Append(appendString(b, c.Column))
		}
	}
	return hash(b)
}

// State hashes all of the record: two POPs whose sums of it agree hold the
// same, values, stamps and deletes.
func (r Record) State() Sum {
	return hash(Delta{Records: []Record{r}}.Append(nil))
}
