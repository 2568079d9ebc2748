package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReadOnly has another process, which is nobody where we are root, open
// files that it may not write.
func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	for at := dir; at != filepath.Dir(os.TempDir()) && at != "/"; at = filepath.Dir(at) {
		if fi, err := os.Stat(at); err != nil || fi.Mode()&0o005 != 0o005 {
			if err := os.Chmod(at, 0o755); err != nil {
				t.Skipf("cannot let another user into %s: %v", at, err)
			}
		}
	}
	paths := map[string]string{}
	for _, name := range []string{"locked", "file", "new", "log", "directory"} {
		sub := filepath.Join(dir, name)
		mkdir(t, sub)
		paths[name] = filepath.Join(sub, "routing.db")
	}
	raw(t, paths["locked"], seedTable, seedRows)
	raw(t, paths["file"], seedTable, seedRows)
	write(t, paths["new"], nil)
	backup(t, paths["log"], "a")
	raw(t, paths["directory"], seedTable, seedRows)
	for name, modes := range map[string][2]os.FileMode{
		"locked": {0o444, 0o555}, "file": {0o444, 0o777}, "new": {0o444, 0o555}, "log": {0o444, 0o555}, "directory": {0o666, 0o555},
	} {
		sub := filepath.Dir(paths[name])
		if err := errors.Join(os.Chmod(paths[name], modes[0]), os.Chmod(sub, modes[1])); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(sub, 0o755) }) // so that it can be removed
	}
	nobody := anotherProcess(t, "read only", dir)
	for {
		line, err := nobody.out.ReadString('\n')
		switch strings.TrimSpace(line) {
		case "":
			if err != nil {
				t.Fatalf("the other process ended early: %v", err)
			}
		case "done":
			return
		case "write to it":
			// The owner may change what we may only read.
			if os.Geteuid() == 0 {
				elsewhere(t, paths["locked"], "INSERT INTO backends (id) VALUES ('owner')")
			}
			fmt.Fprintln(nobody.in)
		default:
			t.Error(strings.TrimSpace(line))
		}
	}
}

// beReadOnly says one line for each thing that is not as it should be.
func beReadOnly(dir string) int {
	root := os.Geteuid() == 0
	if root {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534)); err != nil {
			fmt.Println("become nobody:", err)
			return 1
		}
	}
	ctx := context.Background()
	open := func(name string) (*Store, error) {
		return open(ctx, filepath.Join(dir, name, "routing.db"), 200*time.Millisecond)
	}
	want := func(ok bool, format string, args ...any) {
		if !ok {
			fmt.Printf(format+"\n", args...)
		}
	}

	// A file made by hand: served as it is, nothing is written.
	for _, name := range []string{"locked", "file"} {
		s, err := open(name)
		if err != nil {
			fmt.Printf("%s: %v\n", name, err)
			continue
		}
		want(s.ReadOnly(), "%s: ReadOnly says false", name)
		img, err := s.Read(ctx)
		want(err == nil && len(img.Backends) == 3 && img.BackendOptions == nil, "%s: read: %v, %v", name, img, err)
		err = s.Write(ctx, func(tx *Tx) error { return tx.Put(Backends, "x", nil) })
		want(errors.Is(err, ErrReadOnly) && strings.Contains(err.Error(), "right to write"), "%s: write: %v", name, err)
		changed, err := s.Poll(ctx)
		want(!changed && err == nil, "%s: poll: %v, %v", name, changed, err)
		err = s.Settle(ctx, false, time.Unix(1_000_000, 0))
		want(err == nil, "%s: settle: %v", name, err)
		if name == "locked" && root {
			fmt.Println("write to it")
			_, _ = fmt.Scanln()
			for range 2 {
				changed, err = s.Poll(ctx)
				if changed {
					break
				}
				<-time.After(alikeFor)
			}
			want(changed && err == nil, "%s: poll after the owner's change: %v, %v", name, changed, err)
			img, err = s.Read(ctx)
			want(err == nil && len(img.Backends) == 4, "%s: read after the owner's change: %v, %v", name, img, err)
		}
		want(s.Close() == nil, "%s: close", name)
	}

	// What cannot be served gets a sentence.
	_, err := open("new")
	want(errors.Is(err, ErrReadOnly) && strings.Contains(err.Error(), "no table backends"), "empty file: %v", err)
	for _, name := range []string{"log", "directory"} { // SQLite needs to make files beside it
		s, err := open(name)
		if err == nil {
			img, err := s.Read(ctx)
			want(err == nil && len(img.Backends) > 0, "%s: read: %v, %v", name, img, err)
			want(s.ReadOnly(), "%s: ReadOnly says false", name)
			want(s.Close() == nil, "%s: close", name)
		} else {
			want(strings.Contains(err.Error(), "and its directory"), "%s: %v", name, err)
		}
	}
	fmt.Println("done")
	return 0
}
