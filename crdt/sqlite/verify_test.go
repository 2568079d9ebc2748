package sqlite

import (
	"errors"
	"io/fs"
	"testing"
)

func TestVerify(t *testing.T) {
	s := withRows(t, false)
	verify := func(want bool) {
		t.Helper()
		if same, err := s.Verify(t.Context()); err != nil || same != want {
			t.Fatalf("verify: %v, %v; want %v", same, err, want)
		}
	}
	verify(true)
	put(t, s, "a")
	wantPoll(t, s, true)
	verify(true) // of the log
	settle(t, s)
	verify(true) // of the file
	wantPoll(t, s, false)

	// Written over in a way that Poll has not seen: as if it had happened while
	// the store itself wrote the file.
	rows := many("new", 400)
	shell(t, `cp "$1" "$2"`, made(t, s.path+".new", rows...), s.path)
	id, err := identify(s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.opened = id
	if same, err := s.Verify(t.Context()); same {
		t.Fatalf("the other rows were not found: %v", err)
	}
	wantPoll(t, s, true)
	afterwards(t, s, rows...)
	verify(true)

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(t.Context()); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
