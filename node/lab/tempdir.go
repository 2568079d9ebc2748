package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	dirName  = "edgeproxy-lab-"
	lockName = "lab.lock"
)

// tempDir is the lab's directory, with a lock in it that the kernel releases
// with the process, however that ends.
type tempDir struct {
	path string
	lock *os.File
}

// newTempDir makes the directory, after it has removed what labs that were
// killed have left behind.
func newTempDir() (*tempDir, error) {
	sweep(os.TempDir())
	path, err := os.MkdirTemp("", dirName)
	if err != nil {
		return nil, fmt.Errorf("make the lab's directory: %w", err)
	}
	d := &tempDir{path: path}
	if d.lock, err = os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
		err = syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the lab's directory %s: %w", path, err), d.remove())
	}
	return d, nil
}

func (d *tempDir) remove() error {
	err := os.RemoveAll(d.path)
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// sweep removes the directories of labs that do not run any more. What cannot
// be removed stays: it is not this lab's problem.
func sweep(tmp string) {
	left, _ := filepath.Glob(filepath.Join(tmp, dirName+"*"))
	for _, dir := range left {
		if abandoned(dir) {
			_ = os.RemoveAll(dir)
		}
	}
}

// abandoned says that the directory is ours, a lab's, and nobody's any more.
func abandoned(dir string) bool {
	fi, err := os.Lstat(dir)
	if err != nil || !fi.IsDir() {
		return false
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Getuid() {
		return false
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Since(fi.ModTime()) > time.Minute // else it is just being made
	}
	if err != nil {
		return false
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}
