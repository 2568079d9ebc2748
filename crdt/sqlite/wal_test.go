package sqlite

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// hugePage is the header of a log with a true checksum and a page of 2 GB.
func hugePage() (header [walHeader]byte) {
	binary.BigEndian.PutUint32(header[:], walMagic)
	binary.BigEndian.PutUint32(header[8:], 1<<31)
	w := &walSum{order: binary.LittleEndian}
	w.add(header[:24])
	binary.BigEndian.PutUint32(header[24:], w.s0)
	binary.BigEndian.PutUint32(header[28:], w.s1)
	return header
}

// TestHugePage: no frame is read of a page that SQLite cannot have.
func TestHugePage(t *testing.T) {
	if _, sound := newWalSum(hugePage()); sound {
		t.Error("a page of 2 GB counts as sound")
	}
}

// FuzzLostFrames: whatever lies in the place of the log, no more frames are
// found in it than there is room for.
func FuzzLostFrames(f *testing.F) {
	header := hugePage()
	f.Add(append(header[:], make([]byte, 8192)...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		lost, err := lostFrames(path)
		if err != nil || lost < 0 || lost*(frameHeader+leastPage) > len(b) {
			t.Errorf("%d frames lost of %d bytes, %v", lost, len(b), err)
		}
	})
}
