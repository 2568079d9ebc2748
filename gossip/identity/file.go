package identity

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxFile bounds what is read of any file here; the largest keyring is below it.
const maxFile = 64 << 10

// readPrivate reads a file that nobody but its owner can read. A missing one
// is fs.ErrNotExist.
func readPrivate(path string) ([]byte, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() { // before opening: a FIFO would block
		return nil, fmt.Errorf("read %s: it is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("read %s: others can read this secret (mode %04o): chmod 600 %[1]s, and if they may have, replace it", path, mode)
	}
	body, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(body) > maxFile {
		err = fmt.Errorf("read %s: it is larger than %d bytes", path, maxFile)
	}
	return body, err
}

// writePrivate replaces a file as a whole, with mode 0600, and has it on disk
// when it returns: a crash leaves the old content or the new.
func writePrivate(path string, body []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*") // mode 0600 from the start
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already where all went well
	_, err = f.Write(body)
	if err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
