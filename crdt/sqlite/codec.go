package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// A record in the file: a checksum over key and rest; the different stamps;
// which of them is the delete (0 for none, else its place from 1); the cells'
// interned columns, each with its stamp's place where there is more than one;
// the values. About 65 bytes for a backend that was written once.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(key crdt.Key, b []byte) uint32 {
	sum := crc32.Update(0, castagnoli, []byte(key.Table))
	sum = crc32.Update(sum, castagnoli, []byte(key.PK))
	return crc32.Update(sum, castagnoli, b)
}

// stampsOf lists the record's different stamps.
func stampsOf(rec crdt.Record, stamps []crdt.Stamp) []crdt.Stamp {
	stamps = stamps[:0]
	if !rec.Dead.IsZero() {
		stamps = append(stamps, rec.Dead)
	}
	for i, c := range rec.Cells {
		if i > 0 && c.Stamp == rec.Cells[i-1].Stamp || slices.Contains(stamps, c.Stamp) {
			continue
		}
		stamps = append(stamps, c.Stamp)
	}
	return stamps
}

// encode makes the record's bytes. Origins and columns are interned before.
func (n *names) encode(rec crdt.Record, stamps []crdt.Stamp) []byte {
	b := make([]byte, 4, 128)
	b = binary.AppendUvarint(b, uint64(len(stamps)))
	for _, s := range stamps {
		b = binary.BigEndian.AppendUint64(b, uint64(s.Time))
		b = binary.AppendUvarint(b, uint64(n.originIDs[s.Origin]))
		b = binary.AppendUvarint(b, s.Seq)
	}
	dead := 0
	if !rec.Dead.IsZero() {
		dead = 1 + slices.Index(stamps, rec.Dead)
	}
	b = binary.AppendUvarint(b, uint64(dead))
	b = binary.AppendUvarint(b, uint64(len(rec.Cells)))
	for _, c := range rec.Cells {
		b = binary.AppendUvarint(b, uint64(n.ids[c.Column]))
		if len(stamps) > 1 {
			b = binary.AppendUvarint(b, uint64(slices.Index(stamps, c.Stamp)))
		}
	}
	for _, c := range rec.Cells {
		b = c.Value.Append(b)
	}
	binary.BigEndian.PutUint32(b, checksum(rec.Key, b[4:]))
	return b
}

var errBlob = errors.New("its bytes in crdt_rows are damaged")

// decode reads what encode wrote.
func (n *names) decode(key crdt.Key, b []byte) (rec crdt.Record, err error) {
	rec.Key = key
	if len(b) < 4 || binary.BigEndian.Uint32(b) != checksum(key, b[4:]) {
		return rec, fmt.Errorf("record %s: %w", key, errBlob)
	}
	b = b[4:]
	next := func() uint64 {
		v, size := binary.Uvarint(b)
		if size <= 0 {
			err = errBlob
			return 0
		}
		b = b[size:]
		return v
	}
	count := next()
	if count > uint64(len(b)) {
		return rec, errBlob
	}
	var few [4]crdt.Stamp
	stamps := few[:0]
	for range count {
		if len(b) < 8 {
			return rec, errBlob
		}
		s := crdt.Stamp{Time: crdt.Time(binary.BigEndian.Uint64(b))}
		b = b[8:]
		origin := next()
		if origin >= uint64(len(n.origins)) {
			return rec, errBlob
		}
		s.Origin, s.Seq = n.origins[origin], next()
		stamps = append(stamps, s)
	}
	if dead := next(); dead > uint64(len(stamps)) {
		return rec, errBlob
	} else if dead > 0 {
		rec.Dead = stamps[dead-1]
	}
	cells := next()
	if cells > uint64(len(b)) || err != nil {
		return rec, errBlob
	}
	rec.Cells = make([]crdt.Cell, cells)
	for i := range rec.Cells {
		column, place := next(), uint64(0)
		if len(stamps) > 1 {
			place = next()
		}
		if column >= uint64(len(n.names)) || place >= uint64(len(stamps)) {
			return rec, errBlob
		}
		rec.Cells[i].Column, rec.Cells[i].Stamp = n.names[column], stamps[place]
	}
	values, bad := crdt.Key{PK: string(b)}.Columns()
	if err != nil || bad != nil || len(values) != len(rec.Cells) {
		return rec, errBlob
	}
	for i, v := range values {
		rec.Cells[i].Value = v
	}
	return rec, nil
}

// names are what the file has interned: numbers from 1 for origins, and for
// the names of tables and columns.
type names struct {
	origins   []crdt.Origin
	originIDs map[crdt.Origin]int64
	names     []string
	ids       map[string]int64
}

func newNames() names {
	return names{origins: make([]crdt.Origin, 1), originIDs: map[crdt.Origin]int64{}, names: make([]string, 1), ids: map[string]int64{}}
}

func (n *names) addOrigin(id int64, o crdt.Origin) {
	for int64(len(n.origins)) <= id {
		n.origins = append(n.origins, crdt.Origin{})
	}
	n.origins[id], n.originIDs[o] = o, id
}

func (n *names) addName(id int64, name string) {
	for int64(len(n.names)) <= id {
		n.names = append(n.names, "")
	}
	n.names[id], n.ids[name] = name, id
}

// fits says whether SQLite's signed integers hold the number.
func fits(seq uint64) bool { return seq > 0 && seq <= math.MaxInt64 }
