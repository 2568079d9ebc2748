package node

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/rs/zerolog"
)

// TestReadableAgainIsCurrent: a database that came back is read before it is
// said to be readable, however lately it was read.
func TestReadableAgainIsCurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routing.db")
	store, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var seen *mesh.Snapshot
	w := watcher{
		picture: &picture{store: store, publish: func(s *mesh.Snapshot, _ time.Time) { seen = s }, log: zerolog.Nop()},
		reload:  time.Hour, read: time.Now(), next: time.Now().Add(time.Hour), // read at great cost just now
	}
	err = store.Write(t.Context(), func(tx *sqlite.Tx) error {
		return tx.Put(sqlite.Backends, "sa-1", map[string]any{"app": "a", "region": "sa", "wg_ip": "10.0.0.1", "port": 80})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	err = w.look(t.Context(), time.Now())
	if !errors.Is(err, sqlite.ErrVanished) {
		t.Fatalf("without the file: %v", err)
	}
	w.fail(err)
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if err := w.look(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if seen == nil || len(seen.Backends) != 1 {
		t.Errorf("readable again, with the picture %+v", seen)
	}
}

// TestLeftOutIsNamedInLog: all of it, and whether the row counts without it; in
// the metric a row is one, however much is wrong with it.
func TestLeftOutIsNamedInLog(t *testing.T) {
	n := start(t)
	execute(t, n, `INSERT INTO backends (id, region, wg_ip, port, weight) VALUES ('bad', 'us', '10.0.0.9', 0, -1), ('good', 'us', '10.0.0.9', 80, 1);
		INSERT INTO backend_options (id, country, draining, proxy_protocol) VALUES ('good', 'xx9', 1, 'v7')`)
	var log bytes.Buffer
	p := &picture{store: n.store(), publish: func(*mesh.Snapshot, time.Time) {}, log: zerolog.New(&log)}
	if err := p.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"row":"bad","field":"port","message":"row left out: `, `"row":"bad","field":"weight","message":"row left out: `,
		`"row":"good","field":"country","message":"field left out: `, `"row":"good","field":"proxy_protocol","message":"field left out: `,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, log.String())
		}
	}
	resp, err := http.Get("http://" + n.Addrs().API + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"backends", "backend_options"} {
		if line := `edgeproxy_rows_left_out{table="` + table + `"} 1` + "\n"; !strings.Contains(string(body), line) {
			t.Errorf("the metrics do not say %s", line)
		}
	}
}
