package sqlite

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestInspectChangesNothing(t *testing.T) {
	path := newPath(t)
	if _, err := Inspect(t.Context(), path); !errors.Is(err, ErrVanished) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it was made")
	}
	raw(t, path, seedTable, seedRows)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	img, err := Inspect(t.Context(), path)
	if err != nil || len(img.Backends) != 3 || img.BackendOptions != nil {
		t.Fatalf("read %v, %v", img, err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
	for path, kind := range map[string]error{
		filepath.Join(t.TempDir(), "newer"): ErrNewer,
		filepath.Join(t.TempDir(), "empty"): ErrShape,
		filepath.Join(t.TempDir(), "text"):  ErrDamaged,
		filepath.Join(t.TempDir(), "cut"):   ErrDamaged,
	} {
		switch filepath.Base(path) {
		case "newer":
			raw(t, made(t, path), "PRAGMA user_version = 2")
		case "empty":
			write(t, path, nil)
		case "text":
			write(t, path, bytes.Repeat([]byte("text"), 1000))
		case "cut":
			write(t, path, before[:len(before)-4096])
		}
		if _, err := Inspect(t.Context(), path); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", path, err, kind)
		}
	}
}

// TestInspectBesideADaemon reads what is in the log of a store that is open.
func TestInspectBesideADaemon(t *testing.T) {
	s := openStore(t, newPath(t))
	put(t, s, "a")
	img, err := Inspect(t.Context(), s.path)
	if err != nil || len(img.Backends) != 1 {
		t.Fatalf("%v, %v", img, err)
	}
	wantPoll(t, s, true)
	put(t, s, "b")
	wantIDs(t, s, "a", "b")
	sound(t, s.path)
}
