package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/mesh"
)

// Backup writes a consistent copy of a database file, in use or not.
func Backup(ctx context.Context, db string, to io.Writer) error {
	return throughFile(filepath.Dir(db), func(path string) error { return sqlite.Copy(ctx, db, path) }, to)
}

// backup is Backup of the store that is open.
func (n *Node) backup(ctx context.Context, to io.Writer) error {
	return Backup(ctx, n.store().Path(), to)
}

// throughFile has make write a new file in dir and sends what is in it.
func throughFile(dir string, make func(path string) error, to io.Writer) error {
	tmp, err := os.MkdirTemp(dir, ".edgeproxy-backup-*")
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("make the copy in %s, beside the database: %w", dir, pe.Err)
	}
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	path := filepath.Join(tmp, "copy.db")
	if err := make(path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(to, f)
	return err
}

// Restore puts a copy of the file from in the place of the database, whether a
// daemon runs on that or not, and returns how many backends it holds. Where
// asWritten is set the copy is one that no edgeproxy has written: its rows
// count as written when a daemon takes it up.
func Restore(ctx context.Context, db, from string, asWritten bool) (backends int, err error) {
	img, err := sqlite.Inspect(ctx, from)
	if err != nil {
		return 0, noBackup(from, err)
	}
	snap := mesh.NewSnapshot(self(&config.Config{}, ""), rowsOf(img), nil)
	name := db // under which a daemon runs on it
	if real, err := filepath.EvalSymlinks(db); err == nil {
		db = real // the link stays
	}
	tmp, err := os.MkdirTemp(filepath.Dir(db), ".edgeproxy-restore-*")
	if err != nil {
		return 0, fmt.Errorf("restore %s: %w", db, err)
	}
	defer os.RemoveAll(tmp)
	copied := filepath.Join(tmp, "copy.db")
	if err := sqlite.Copy(ctx, from, copied); err != nil {
		return 0, noBackup(from, err)
	}
	if asWritten {
		if err := sqlite.Strip(ctx, copied); err != nil {
			return 0, err
		}
	}
	lock, err := takeLock(name)
	if errors.Is(err, errLockHeld) {
		return len(snap.Backends), sqlite.Restore(ctx, db, copied, asWritten)
	}
	if err != nil {
		return 0, err
	}
	defer lock.release()
	// The log of what was there before would be mixed into the new file.
	for _, left := range []string{db + "-wal", db + "-shm"} {
		if err := os.Remove(left); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("restore %s: remove the log of what was there before: %w", db, err)
		}
	}
	if err := sameRights(copied, db); err != nil {
		return 0, fmt.Errorf("restore %s: %w", db, err)
	}
	if err := syncFile(copied); err != nil {
		return 0, err
	}
	if err := os.Rename(copied, db); err != nil {
		return 0, fmt.Errorf("restore %s: %w", db, err)
	}
	return len(snap.Backends), syncFile(filepath.Dir(db))
}

// noBackup says of a file that cannot be restored what the store says of one that
// cannot be served: there the way out is another one, here it is another backup.
func noBackup(from string, err error) error {
	const another = `name a file that "edgeproxy backup" has written`
	info, missing := os.Stat(from)
	switch {
	case errors.Is(missing, fs.ErrNotExist):
		return fmt.Errorf("restore from %s: there is no such file: %s", from, another)
	case missing == nil && !info.Mode().IsRegular():
		return fmt.Errorf("restore from %s: it is no regular file: %s", from, another)
	case errors.Is(err, sqlite.ErrDamaged):
		return fmt.Errorf("restore from %s: %w: %s", from, sqlite.ErrDamaged, another)
	}
	return err
}

// sameRights gives a file the owner and the mode of the one whose place it is
// to take: root restores what an edgeproxy without root's rights must write.
func sameRights(path, of string) error {
	fi, err := os.Stat(of)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		if err := os.Chown(path, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(path, fi.Mode().Perm())
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
