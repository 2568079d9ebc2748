package node

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/rs/zerolog"
)

// TestReadableAgainIsCurrent: a database that came back is read before it is
// said to be readable, however lately it was read.
func TestReadableAgainIsCurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routing.db")
	store, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var seen *mesh.Snapshot
	w := watcher{
		picture: &picture{store: store, publish: func(s *mesh.Snapshot, _ time.Time) { seen = s }, log: zerolog.Nop()},
		reload:  time.Hour, read: time.Now(), next: time.Now().Add(time.Hour), // read at great cost just now
	}
	err = store.Write(t.Context(), func(tx *sqlite.Tx) error {
		return tx.Put(sqlite.Backends, "sa-1", map[string]any{"app": "a", "region": "sa", "wg_ip": "10.0.0.1", "port": 80})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	err = w.look(t.Context(), time.Now())
	if !errors.Is(err, sqlite.ErrVanished) {
		t.Fatalf("without the file: %v", err)
	}
	w.fail(err)
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if err := w.look(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if seen == nil || len(seen.Backends) != 1 {
		t.Errorf("readable again, with the picture %+v", seen)
	}
}
