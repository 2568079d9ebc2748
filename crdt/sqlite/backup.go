package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Backup writes a copy of the database, as it is at one moment, to a file that
// must not be there yet, and has it on the disk when it returns. Whoever
// restores it begins a new epoch.
func (s *Store) Backup(ctx context.Context, path string) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("back up %s: %s is there already: %w: name another file", s.path, path, fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("back up %s: %w", s.path, err)
	}
	if err := checkPath(path); err != nil {
		return err
	}
	from, err := connect(ctx, uri(s.path, "rw"), s.busy)
	if err != nil {
		return s.explain("back up", err)
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	// Beside its place until it is whole.
	part := path + ".part"
	if err := removeIfThere(part); err != nil {
		return fmt.Errorf("back up %s: %w", s.path, err)
	}
	defer func() { err = errors.Join(err, removeIfThere(part)) }()
	if _, err := from.ExecContext(ctx, "VACUUM INTO ?", part); err != nil {
		return s.explain("back up", err)
	}
	if err := detach(ctx, part, s.busy); err != nil {
		return fmt.Errorf("back up %s to %s: %w", s.path, path, err)
	}
	for _, sync := range []string{part, filepath.Dir(path)} {
		if err := syncFile(sync); err != nil {
			return fmt.Errorf("back up %s to %s: %w", s.path, path, err)
		}
		if sync == part {
			if err := os.Link(part, path); err != nil { // unlike a rename, not over another
				return fmt.Errorf("back up %s: %w", s.path, err)
			}
		}
	}
	return nil
}

// detach makes sure that the copy is not taken for the file itself, nor what
// POPs were doing when it was made for what they do.
func detach(ctx context.Context, path string, busy time.Duration) error {
	c, err := connect(ctx, uri(path, "rw"), busy)
	if err != nil {
		return err
	}
	k, err := readControl(ctx, c)
	if err == nil && k.found {
		_, err = c.ExecContext(ctx, "UPDATE crdt_control SET nonce = ''")
	}
	if err == nil {
		err = clearTelemetry(ctx, c)
	}
	return errors.Join(err, c.Close())
}

// syncFile has a file or a directory on the disk.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
