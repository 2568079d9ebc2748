package sqlite

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// FuzzLostFrames: whatever lies in the place of the log, reading it takes no
// more memory than a page, and finds no more frames than there is room for.
func FuzzLostFrames(f *testing.F) {
	// A header with a true checksum and a page of 2 GB.
	var header [walHeader]byte
	binary.BigEndian.PutUint32(header[:], walMagic)
	binary.BigEndian.PutUint32(header[8:], 1<<31)
	w := &walSum{order: binary.LittleEndian}
	w.add(header[:24])
	binary.BigEndian.PutUint32(header[24:], w.s0)
	binary.BigEndian.PutUint32(header[28:], w.s1)
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
		if _, sound := newWalSum(header); sound {
			t.Error("a page of 2 GB counts as sound")
		}
	})
}
