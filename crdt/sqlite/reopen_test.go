package sqlite

import (
	"errors"
	"testing"
)

// TestReopen loses nothing, also where another process has the file open and
// rows are in the log only.
func TestReopen(t *testing.T) {
	s := withRows(t, false)
	before := ids(t, s)
	other := anotherProcess(t, "obey", s.path)
	other.exec("INSERT INTO backends (id) VALUES ('z')")
	s.Reopen()
	wantPoll(t, s, true)
	wantIDs(t, s, append(before, "z")...)
	other.exec("INSERT INTO backends (id) VALUES ('zy')")
	wantPoll(t, s, true)
	wantIDs(t, s, append(before, "z", "zy")...)
	other.end()
	afterwards(t, s, append(before, "z", "zy")...)
}

// TestBrokenConnectionIsReplaced: what database/sql calls a bad connection
// stays bad; the store opens another by itself, whoever met it.
func TestBrokenConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	breakReader := func(s *Store) error { return s.reader.Conn.Close() }
	breakWriter := func(s *Store) error { return s.writer.Conn.Close() }
	poll := func(s *Store) error { _, err := s.Poll(t.Context()); return err }
	read := func(s *Store) error { _, err := s.Read(t.Context()); return err }
	write := func(s *Store) error { return s.Write(t.Context(), func(*Tx) error { return nil }) }
	for name, c := range map[string]struct{ breakIt, meetIt func(s *Store) error }{
		"reader, by Poll":  {breakReader, poll},
		"reader, by Read":  {breakReader, read},
		"writer, by Write": {breakWriter, write},
		"both, by Write":   {func(s *Store) error { return errors.Join(breakReader(s), breakWriter(s)) }, write},
	} {
		t.Run(name, func(t *testing.T) {
			s := withRows(t, false)
			before := ids(t, s)
			if err := c.breakIt(s); err != nil {
				t.Fatal(err)
			}
			if err := c.meetIt(s); err == nil {
				t.Fatal("nothing broke")
			}
			wantPoll(t, s, true)
			afterwards(t, s, before...)
		})
	}
}
