package mmdb

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// maxFile keeps a wrong path (a disk image, a video) from taking all memory. The largest databases that are sold have
// some hundred megabytes.
const maxFile = 2 << 30

// readFile reads a whole database and tells which state of the file it read.
//
// Into memory, not by mmap: when somebody truncates or overwrites a mapped file in place (cp, scp, a full disk), touching
// the lost pages is a SIGBUS, which ends the process. A proxy's life is worth more than a few megabytes.
func readFile(path string) ([]byte, os.FileInfo, error) {
	data, info, err := slurp(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w: correct the path, or leave it empty to use the embedded country database", err)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w: let the user that edgeproxy runs as read it", err)
	}
	return data, info, err
}

func slurp(path string) ([]byte, os.FileInfo, error) {
	info, err := os.Stat(path) // before opening, which would wait for ever on a named pipe
	switch {
	case err != nil:
		return nil, nil, cause(err)
	case info.IsDir():
		return nil, nil, errors.New("is a directory: name the .mmdb file in it")
	case !info.Mode().IsRegular():
		return nil, nil, errors.New("is not a regular file: name an .mmdb file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, cause(err)
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return nil, nil, cause(err)
	}
	if before.Size() > maxFile {
		return nil, nil, fmt.Errorf("has %d bytes, more than any such database: name an .mmdb file", before.Size())
	}
	data := make([]byte, before.Size())
	_, err = io.ReadFull(f, data)
	shrunk := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	if err != nil && !shrunk {
		return nil, nil, cause(err)
	}
	after, err := f.Stat()
	if err != nil {
		return nil, nil, cause(err)
	}
	if shrunk || !same(before, after) {
		return nil, nil, errors.New("was written to while it was read: try again when the copy is complete")
	}
	return data, after, nil
}

// cause drops the operation and path that the caller names anyway.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// same reports whether two looks at a path saw the same state of the same file: device, inode, size and modification
// time. Nil stands for no file.
func same(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// watch is what Run remembers from one poll to the next. It belongs to one goroutine.
type watch struct {
	r        *Resolver
	seen     os.FileInfo // at the last poll; nil: there was no file
	failing  bool        // the last reload failed, …
	reported os.FileInfo // … with the file in this state, and OnReload was told
}

// poll is one look at the file.
func (w *watch) poll() {
	now, err := os.Stat(w.r.cfg.Path)
	if err != nil {
		now = nil
	}
	settled := same(now, w.seen)
	w.seen = now
	if !settled || now != nil && same(now, w.r.lastTried()) {
		return
	}
	// A file that could not be read, unlike one that was read and refused, is tried again at every poll: what was in the
	// way (no descriptors left, permissions, its absence) goes away without changing the file. It is reported once.
	err = w.r.Reload()
	silent := err != nil && w.failing && same(now, w.reported)
	w.failing, w.reported = err != nil, now
	if w.r.cfg.OnReload != nil && !silent {
		w.r.cfg.OnReload(w.r.Info(), err)
	}
}

func (r *Resolver) lastTried() os.FileInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tried
}
