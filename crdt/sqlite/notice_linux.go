package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Notices are sent when somebody has begun to write into the file or its log,
// or has put another file there: it is time to Poll, now and for a moment after,
// since a commit is to be seen some time after its last byte was written. Not all
// file systems tell of what other machines do, and what is behind a link may be
// exchanged unnoticed: Poll now and then in any case. The channel is closed where
// nothing more is told. stop ends it.
//
// By inotify(7), which opens nothing: to open and close the file would drop
// SQLite's locks on it.
func (s *Store) Notices() (notices <-chan struct{}, stop func(), err error) {
	path, err := filepath.EvalSymlinks(s.path) // the log lies beside the file that a link names
	if err != nil {
		return nil, nil, fmt.Errorf("notices of %s: %w", s.path, err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, fmt.Errorf("notices of %s: inotify: %w", s.path, err)
	}
	w := watched{File: os.NewFile(uintptr(fd), "inotify"), path: path}
	// What is written there besides, as a log, is nothing to wake up for.
	w.dir, err = unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	if err == nil {
		err = w.files()
	}
	if err != nil {
		w.Close()
		return nil, nil, fmt.Errorf("notices of %s: inotify: %w", s.path, err)
	}
	out := make(chan struct{}, 1)
	go w.run(out)
	return out, func() { w.Close() }, nil
}

// watched is a database that the kernel watches: its directory for files that
// come and go, and those that are there for what is written.
type watched struct {
	*os.File
	path string
	dir  int // the directory's watch descriptor
}

// files has what is written into the files noticed, as far as they are there.
func (w *watched) files() error {
	raw, err := w.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for _, suffix := range []string{"", "-wal"} {
			if _, err := unix.InotifyAddWatch(int(fd), w.path+suffix, unix.IN_MODIFY); err != nil && !errors.Is(err, unix.ENOENT) {
				failed = err
			}
		}
	})
	return errors.Join(err, failed)
}

func (w *watched) run(out chan<- struct{}) {
	defer close(out)
	events := make([]byte, 4096)
	for {
		n, err := w.Read(events)
		if err != nil {
			return
		}
		wrote, moved, over := w.concerns(events[:n])
		if moved && w.files() != nil {
			return
		}
		if wrote || moved {
			select {
			case out <- struct{}{}:
			default:
			}
		}
		if over {
			return
		}
	}
}

// concerns says of the kernel's events whether one is of our files' content or
// of their names, and whether they are the last.
func (w *watched) concerns(events []byte) (wrote, moved, over bool) {
	name := filepath.Base(w.path)
	for len(events) >= unix.SizeofInotifyEvent {
		descriptor, mask := int(int32(binary.NativeEndian.Uint32(events))), binary.NativeEndian.Uint32(events[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		switch strings.TrimRight(string(events[unix.SizeofInotifyEvent:end]), "\x00") {
		case name, name + "-wal", name + "-journal":
			moved = true
		}
		wrote, moved = wrote || mask&unix.IN_MODIFY != 0, moved || mask&unix.IN_Q_OVERFLOW != 0
		over = over || descriptor == w.dir && mask&(unix.IN_IGNORED|unix.IN_UNMOUNT) != 0
		events = events[end:]
	}
	return wrote, moved, over
}
