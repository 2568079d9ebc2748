package node

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
)

// Files beside the database: <db>.lock says that a daemon runs on it, <db>.node
// keeps the POP's name and life, <db>.key the key that proves it, <db>.keys the
// cluster keys, <db>.peers the other POPs, <db>.serf what membership knew;
// <db>.wg is the key in the WireGuard overlay; <db>.pop tells the command line where the API is.

// lock is held while this process runs on a database. The kernel releases it
// with the process, however that ends, so a file left behind locks nothing.
type lock struct{ file *os.File }

type lockHolder struct {
	PID  int    `json:"pid"`
	Node string `json:"node"`
}

// takeLock makes sure that one daemon runs on the database.
func takeLock(db string) (*lock, error) {
	f, err := os.OpenFile(db+".lock", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return &lock{f}, nil
	}
	defer f.Close()
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock %s.lock: %w", db, err)
	}
	var holder lockHolder
	who := "another edgeproxy"
	if json.NewDecoder(f).Decode(&holder) == nil && holder.PID != 0 {
		who = fmt.Sprintf("edgeproxy node %s (pid %d)", holder.Node, holder.PID)
	}
	return nil, fmt.Errorf("%w: %s runs on %s: stop it, or give this one a database of its own with EDGEPROXY_DB_PATH", errLockHeld, who, db)
}

var errLockHeld = errors.New("database in use")

// sign writes who holds the lock, for the one that does not get it.
func (l *lock) sign(node string) error {
	body, err := json.Marshal(lockHolder{PID: os.Getpid(), Node: node})
	if err != nil {
		return err
	}
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	_, err = l.file.WriteAt(append(body, '\n'), 0)
	return err
}

// release unlocks. The file stays: removing it would let two daemons lock two
// files of one name.
func (l *lock) release() {
	if l != nil {
		l.file.Close()
	}
}

// life is <db>.node: this POP's name, and which life of the database it began
// with. Nothing of it changes once it is open, but for the file.
type life struct {
	path string
	sqlite.Life
	made bool        // the name was made up here, now or at an earlier start
	kept bool        // the file held it
	over atomic.Bool // renewed: nothing is kept under this name any more

	// incarnation is this process's number, greater than that of any before it,
	// also where the clock was set back: others believe the greatest.
	incarnation uint64
}

// lifeFile is the content of <db>.node.
type lifeFile struct {
	Node  string `json:"node"`
	Made  bool   `json:"made_up,omitempty"`
	Epoch uint32 `json:"epoch,omitempty"`
	Nonce string `json:"nonce,omitempty"`
	Clean bool   `json:"clean,omitempty"`
	Dirty bool   `json:"dirty,omitempty"`

	Incarnation uint64 `json:"incarnation,omitempty"`
}

// openLife finds the name of this POP: the one asked for, else the one kept
// beside the database, else a new one. Now is this machine's clock. It writes nothing.
func openLife(cfg *config.Config, now time.Time) (*life, error) {
	l := &life{path: cfg.DBPath + ".node"}
	var f lifeFile
	switch body, err := os.ReadFile(l.path); {
	case err == nil:
		if err := json.Unmarshal(body, &f); err != nil || f.Node == "" {
			return nil, fmt.Errorf("read %s: it does not hold this POP's name: restore it, or remove it to get a new name", l.path)
		}
		l.kept = true
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read this POP's name: %w", err)
	}
	l.Life = sqlite.Life{Node: f.Node, Epoch: f.Epoch, Nonce: f.Nonce, Clean: f.Clean, Dirty: f.Dirty}
	l.made = f.Made
	l.incarnation = max(uint64(now.UnixNano()), f.Incarnation+1)
	switch {
	case cfg.NodeID != "":
		l.kept = l.kept && f.Node == cfg.NodeID && !f.Made
		l.Node, l.made = cfg.NodeID, false
	case f.Node == "":
		l.Node, l.made = newName(cfg.Region), true
	}
	return l, nil
}

func newName(region string) string {
	var random [4]byte
	rand.Read(random[:])
	return region + "-" + hex.EncodeToString(random[:])
}

// keep writes the name and the number of this start; beside a read-only
// database only a name that is not kept yet.
func (l *life) keep(readOnly bool) error {
	if l.kept && readOnly {
		return nil
	}
	return l.save(l.Life)
}

// save has the life on disk when it returns.
func (l *life) save(next sqlite.Life) error {
	if l.over.Load() {
		return nil
	}
	return writeJSON(l.path, lifeFile{Node: next.Node, Made: l.made, Epoch: next.Epoch, Nonce: next.Nonce, Clean: next.Clean, Dirty: next.Dirty, Incarnation: l.incarnation})
}

// renew forgets a name that was made up and turned out to be another's: this
// is a copy of that POP. The next start makes a new one, and a new key.
func (l *life) renew(db string) error {
	l.over.Store(true)
	var errs []error
	for _, file := range []string{l.path, db + ".key", db + ".serf", db + ".wg"} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// writePop tells the command line where the API is.
func writePop(db string, p api.PopFile) error { return writeJSON(db+".pop", p) }

func removePop(db string) error { return os.Remove(db + ".pop") }

// writeJSON is writeFile of a value.
func writeJSON(path string, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(body, '\n'), 0o644)
}

// writeFile replaces a file as a whole and has it on disk when it returns: a
// crash leaves the old content or the new.
func writeFile(path string, body []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already where all went well
	_, err = f.Write(body)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
