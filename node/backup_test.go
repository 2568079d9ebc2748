package node_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/node"
)

// TestRestoreKeepsRights: whoever could write the database still can, and a
// link to it still leads there.
func TestRestoreKeepsRights(t *testing.T) {
	dir := t.TempDir()
	real, link, backup := filepath.Join(dir, "real.db"), filepath.Join(dir, "routing.db"), filepath.Join(dir, "backup.db")
	for _, path := range []string{real, backup} {
		s, err := sqlite.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(real, 0o660); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(real)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := node.Restore(t.Context(), link, backup, false); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(real)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Lstat(link); err != nil || fi.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link is %v, %v", fi.Mode(), err)
	}
	if os.SameFile(before, after) || after.Mode().Perm() != 0o660 {
		t.Errorf("mode %v", after.Mode())
	}
}
