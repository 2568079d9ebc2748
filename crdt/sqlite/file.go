package sqlite

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// identity tells two files under one name apart, and one file before and
// after somebody wrote over it. PRAGMA data_version sees neither: a file moved
// over ours leaves our connections at the old one.
type identity struct {
	dev, ino uint64
	size     int64
	modified time.Time
}

func (i identity) sameFile(o identity) bool { return i.dev == o.dev && i.ino == o.ino }

// identify looks at the file without opening it: closing a descriptor of a
// database drops every lock that this process holds on it (POSIX fcntl locks).
func identify(path string) (identity, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return identity{}, err
	}
	id := identity{size: fi.Size(), modified: fi.ModTime()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		id.dev, id.ino = uint64(st.Dev), st.Ino
	}
	return id, nil
}

// checkPath finds what is wrong with the path itself, for which SQLite has
// only "unable to open database file".
func checkPath(path string) error {
	dir := filepath.Dir(path)
	fi, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("open %s: directory %s does not exist: create it (mkdir -p %s) or name another file in EDGEPROXY_DB_PATH", path, dir, dir)
	case err != nil:
		return fmt.Errorf("open %s: %w", path, err)
	case !fi.IsDir():
		return fmt.Errorf("open %s: %s is not a directory: name another file in EDGEPROXY_DB_PATH", path, dir)
	}
	fi, err = os.Stat(path)
	switch {
	case path == "":
		return errors.New("open the routing database: its name is empty: name a file in EDGEPROXY_DB_PATH")
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("open %s: %w", path, err)
	case !fi.Mode().IsRegular():
		return fmt.Errorf("open %s: it is not a regular file: name a file in EDGEPROXY_DB_PATH", path)
	}
	return nil
}

// overwritten says whether somebody wrote something else over the file that
// we had open (cp, scp, a shell's >), so that the log beside it is that of
// another database. It says so only where it is certain: no SQLite database,
// or one that keeps no log, which nobody can make of ours while it is open. In
// doubt the log belongs to the file, for it holds what others have committed.
//
// It opens and closes the file, which drops all locks of this process on it;
// so only when its connections are to be closed next.
func overwritten(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	// https://www.sqlite.org/fileformat2.html, §1.3
	var header [100]byte
	if _, err := io.ReadFull(f, header[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	} else if err != nil {
		return false
	}
	const logged = 2 // a version of the file format: with a write-ahead log
	return !bytes.HasPrefix(header[:], []byte("SQLite format 3\x00")) || header[18] != logged || header[19] != logged
}

// removeLog removes the log of a database that is there no more. SQLite would
// take it for that of the file now under the name.
func removeLog(log string) error {
	return errors.Join(removeIfThere(log), removeIfThere(strings.TrimSuffix(log, "-wal")+"-shm"))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// uri names the file to SQLite; mode is rw, rwc or ro. Characters that have a
// meaning in a URI are escaped (https://www.sqlite.org/uri.html).
func uri(path, mode string) string {
	if filepath.IsAbs(path) {
		path = "/" + strings.TrimLeft(path, "/") // two would begin the name of a host
	} else {
		path = "./" + path // ":memory:" too is the name of a file
	}
	return "file:" + strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path) + "?mode=" + mode
}
