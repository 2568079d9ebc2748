package membership

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// snapshotLimit is more than 10,000 members take.
const snapshotLimit = 1 << 20

// snapshotFile remembers the members for the next start, one line each, as
// serf's own does and its agent reads:
//
//	alive: us-1 198.51.100.7:7946
//
// It is ours because serf's has nil pointers after a failed compaction (a file
// that was deleted under it is enough), tries those it remembers only once, and
// forgets those that have failed, which on the small side of a partition is
// everybody. The Lamport clocks it keeps as well come back with the first join.
type snapshotFile struct {
	path    string
	written []byte
	failing bool
}

// keep writes the members if they have changed. It leaves the file alone while
// nobody else is alive: what stands there is better. An error that goes on is
// told once.
func (f *snapshotFile) keep(members []Member) error {
	if f.path == "" || alone(members) {
		return nil
	}
	var b bytes.Buffer
	for _, status := range []string{StatusAlive, StatusFailed} {
		for _, m := range members {
			if !m.Self && m.Status == status && checkName(m.Name) == nil {
				fmt.Fprintf(&b, "alive: %s %s\n", m.Name, m.Addr)
			}
		}
	}
	if bytes.Equal(b.Bytes(), f.written) {
		return nil
	}
	err := replaceFile(f.path, b.Bytes())
	if err == nil {
		f.written, f.failing = b.Bytes(), false
		return nil
	}
	if f.failing {
		return nil
	}
	f.failing = true
	return fmt.Errorf("write snapshot: %w", err)
}

// replaceFile leaves the old content or the new, whatever happens.
func replaceFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already, where all went well
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Sync()
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// readSnapshot gives the addresses in the file, and how many lines it could
// not make sense of. A file that does not exist is empty.
func readSnapshot(path string) (known map[string]netip.AddrPort, odd int, err error) {
	known = make(map[string]netip.AddrPort)
	if path == "" {
		return known, 0, nil
	}
	if fi, err := os.Stat(path); os.IsNotExist(err) {
		return known, 0, nil
	} else if err == nil && !fi.Mode().IsRegular() {
		return known, 0, fmt.Errorf("read snapshot %s: not a file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return known, 0, fmt.Errorf("read snapshot: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, snapshotLimit))
	if err != nil {
		return known, 0, fmt.Errorf("read snapshot %s: %w", path, err)
	}
	for l := range strings.Lines(string(content)) {
		l = strings.TrimSpace(l)
		if name, ok := strings.CutPrefix(l, "not-alive: "); ok {
			delete(known, name)
			continue
		}
		name, addr, ok := strings.Cut(strings.TrimPrefix(l, "alive: "), " ")
		a, err := netip.ParseAddrPort(addr)
		switch {
		case strings.HasPrefix(l, "alive: ") && ok && err == nil && a.Port() != 0 && checkName(name) == nil:
			known[name] = a
		case strings.Contains(l, "clock: "), strings.HasPrefix(l, "coordinate: "), strings.HasPrefix(l, "#"), l == "leave", l == "":
			// serf's, and of no use here
		default:
			odd++
		}
	}
	return known, odd, nil
}
