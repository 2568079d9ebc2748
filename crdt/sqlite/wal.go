package sqlite

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
)

// The write-ahead log is a header and frames, each a page with a checksum over
// all before it: https://www.sqlite.org/fileformat2.html, §4.
const (
	walHeader   = 32
	frameHeader = 24
	leastPage   = 512
	mostPage    = 65536
	walMagic    = 0x377f0682 // and 1: checksums of big-endian words
)

// lostFrames counts the frames that belong to committed transactions and that
// SQLite leaves out, as it does without a word, because they or one before them
// cannot be right. A log that merely ends within a transaction has none, nor
// has one with frames of a generation before.
func lostFrames(log string) (int, error) {
	f, err := os.Open(log)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<16)
	var header [walHeader]byte
	if _, err := io.ReadFull(in, header[:]); err != nil {
		return 0, nil // SQLite has not begun it
	}
	w, sound := newWalSum(header)
	if !sound {
		fi, err := f.Stat()
		if err != nil {
			return 0, err
		}
		return int((fi.Size() - walHeader) / (frameHeader + 4096)), nil // of the usual size: what the header says of it may be wrong
	}
	frame := make([]byte, frameHeader+w.page)
	lost, committed := 0, 0
	for {
		if _, err := io.ReadFull(in, frame); err != nil {
			return committed, nil
		}
		if sound = sound && w.next(frame); sound {
			continue
		}
		lost++
		if w.ours(frame) && binary.BigEndian.Uint32(frame[4:]) != 0 { // the last of a transaction
			committed = lost
		}
	}
}

// walSum is the running checksum of a log.
type walSum struct {
	order  binary.ByteOrder
	page   int
	salts  [8]byte
	s0, s1 uint32
}

func newWalSum(header [walHeader]byte) (w *walSum, sound bool) {
	magic := binary.BigEndian.Uint32(header[:])
	w = &walSum{order: binary.LittleEndian, page: int(binary.BigEndian.Uint32(header[8:])), salts: [8]byte(header[16:])}
	if magic&1 != 0 {
		w.order = binary.BigEndian
	}
	w.add(header[:24])
	return w, magic&^1 == walMagic && w.is(header[24:]) && w.page >= leastPage && w.page <= mostPage
}

func (w *walSum) add(b []byte) {
	for ; len(b) >= 8; b = b[8:] {
		w.s0 += w.order.Uint32(b) + w.s1
		w.s1 += w.order.Uint32(b[4:]) + w.s0
	}
}

func (w *walSum) is(sum []byte) bool {
	return binary.BigEndian.Uint32(sum) == w.s0 && binary.BigEndian.Uint32(sum[4:]) == w.s1
}

func (w *walSum) ours(frame []byte) bool { return [8]byte(frame[8:]) == w.salts }

// next says whether the frame is the next one of the log.
func (w *walSum) next(frame []byte) bool {
	if !w.ours(frame) {
		return false
	}
	w.add(frame[:8])
	w.add(frame[frameHeader:])
	return w.is(frame[16:frameHeader])
}
