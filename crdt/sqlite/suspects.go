package sqlite

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// A process that crashes over a record of a peer would do so again at each
// start, and so would every other POP that it is sent to. So a file beside the
// database says which records are being applied. Those that were when a process
// ended in the middle are suspects, and applied one by one from then on; one at
// which it ended in the middle once more stays out, by name, until its row is
// written anew. The file is not synced: that what was written to it survives the
// process is enough.
//
// The file: the number of suspects as a big-endian uint32, each as its mark and
// the number of crashes (uint64, uint32), the number of records that are being
// applied, and the mark of each.

const (
	crashesMost = 2 // of one record
	maxSuspects = 1 << 16
)

var errCulprit = errors.New("edgeproxy has ended in the middle of applying it, twice: it stays out until the row is written anew; report this as a bug")

// suspects is the file and what it says. nil keeps none.
type suspects struct {
	file    *os.File
	crashes map[uint64]uint32 // by mark
	buf     []byte
}

// openSuspects reads what an earlier process left; found is how many records it
// was applying when it ended.
func openSuspects(path string) (s *suspects, found int, err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, err
	}
	s = &suspects{file: file, crashes: map[uint64]uint32{}}
	content, err := io.ReadAll(io.LimitReader(file, 32*maxSuspects))
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	applying := s.parse(content)
	for _, mark := range applying {
		s.crashes[mark]++
	}
	if len(s.crashes) > maxSuspects { // no batch is as large: this is no file of ours
		clear(s.crashes)
	}
	return s, len(applying), s.write(nil)
}

// parse takes over the suspects, and returns the marks of what was being
// applied. What is cut off, or is no such file, counts as empty.
func (s *suspects) parse(b []byte) (applying []uint64) {
	count := func(size int) int {
		if len(b) < 4 {
			return 0
		}
		n := int(binary.BigEndian.Uint32(b))
		if b = b[4:]; n > len(b)/size {
			b = nil
			return 0
		}
		return n
	}
	for range count(12) {
		s.crashes[binary.BigEndian.Uint64(b)] = binary.BigEndian.Uint32(b[8:])
		b = b[12:]
	}
	for range count(8) {
		applying = append(applying, binary.BigEndian.Uint64(b))
		b = b[8:]
	}
	return applying
}

// write has the file say what is being applied.
func (s *suspects) write(records []crdt.Record) error {
	b := binary.BigEndian.AppendUint32(s.buf[:0], uint32(len(s.crashes)))
	for _, mark := range slices.Sorted(maps.Keys(s.crashes)) {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, mark), s.crashes[mark])
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(records)))
	for i := range records {
		b = binary.BigEndian.AppendUint64(b, markOf(&records[i]))
	}
	s.buf = b
	_, err := s.file.WriteAt(b, 0)
	return err
}

// next is how many of the records may be applied at once.
func (s *suspects) next(records []crdt.Record) int {
	if s == nil || len(s.crashes) == 0 {
		return len(records)
	}
	for i := range records {
		if s.crashes[markOf(&records[i])] > 0 {
			return max(i, 1)
		}
	}
	return len(records)
}

// begin is before records are applied, and done after. Where the file cannot
// be written they are applied all the same: a full disk is no crash.
func (s *suspects) begin(records []crdt.Record) {
	if s != nil && len(records) > 0 {
		_ = s.write(records)
	}
}

func (s *suspects) done(records []crdt.Record) {
	if s == nil || len(records) == 0 {
		return
	}
	if len(s.crashes) > 0 {
		for i := range records {
			delete(s.crashes, markOf(&records[i]))
		}
	}
	_ = s.write(nil)
}

// without leaves out, by name, what has crashed edgeproxy too often.
func (s *suspects) without(records []crdt.Record, a *crdt.Applied) []crdt.Record {
	if s == nil || len(s.crashes) == 0 {
		return records
	}
	kept := make([]crdt.Record, 0, len(records))
	for _, rec := range records {
		if s.crashes[markOf(&rec)] >= crashesMost {
			a.Refused = append(a.Refused, crdt.Refusal{Key: rec.Key, Err: errCulprit})
		} else {
			kept = append(kept, rec)
		}
	}
	return kept
}

func (s *suspects) close() error {
	if s == nil {
		return nil
	}
	if err := s.file.Close(); !errors.Is(err, fs.ErrClosed) {
		return err
	}
	return nil
}

// markOf tells records apart: the row, and its latest write.
func markOf(rec *crdt.Record) uint64 {
	top, _ := newest(*rec)
	h := fnv.New64a()
	b := make([]byte, 0, 128)
	b = append(append(append(append(b, rec.Table...), 0), rec.PK...), 0)
	b = append(append(b, top.Origin.Node...), 0)
	b = binary.BigEndian.AppendUint32(b, top.Origin.Epoch)
	b = binary.BigEndian.AppendUint64(b, top.Seq)
	h.Write(binary.BigEndian.AppendUint64(b, uint64(top.Time)))
	return h.Sum64()
}
