package sqlite

import (
	"fmt"
	"reflect"
	"testing"
)

// earlierTables are those of an edgeproxy that had no services.
const earlierTables = `CREATE TABLE backend_options (id TEXT PRIMARY KEY, country TEXT, draining INTEGER DEFAULT 0);
	INSERT INTO backend_options VALUES ('a', 'BR', 1);`

// earlierServices is the table of an edgeproxy whose services had no listeners.
const earlierServices = `CREATE TABLE services (app TEXT PRIMARY KEY, health_check TEXT, panic_threshold INTEGER, soft_limit INTEGER, hard_limit INTEGER);`

// TestFileOfAnEarlierVersion: what it lacks is added, what it holds stays, and
// the version stays, so that the earlier edgeproxy opens it again.
func TestFileOfAnEarlierVersion(t *testing.T) {
	path := newPath(t)
	raw(t, made(t, path, "a"), earlierTables, "PRAGMA user_version = 1")
	p := newPop(t, path, "sa")
	p.fold()
	img, err := p.Read(t.Context())
	if err != nil || !reflect.DeepEqual(img.BackendOptions, [][]any{{"a", "BR", int64(1), nil, nil}}) || img.Services != nil {
		t.Fatalf("%+v, %v", img, err)
	}
	if got := cell(t, path, "PRAGMA user_version"); got != "1" {
		t.Errorf("version %s", got)
	}
	raw(t, path, "UPDATE backend_options SET health_check = 'off'", "INSERT INTO services (app, hard_limit) VALUES ('web', 5)")
	if got := stamped(p.fold()); got != "a health_check; web affinity_ttl alpn connect_timeout_ms hard_limit health_check idle_timeout_secs listen max_connections mode panic_threshold proxy_protocol sni soft_limit" {
		t.Errorf("captured %q", got)
	}
	other := newPop(t, newPath(t), "us")
	other.pull(p, 300)
	agree(t, p, other)
	if img, err := Inspect(t.Context(), path); err != nil || len(img.Services) != 1 {
		t.Errorf("%+v, %v", img, err)
	}
}

// TestInspectEarlierFile: checking adds nothing, and finds the columns that are there.
func TestInspectEarlierFile(t *testing.T) {
	path := newPath(t)
	raw(t, made(t, path, "a"), earlierTables)
	img, err := Inspect(t.Context(), path)
	if err != nil || !reflect.DeepEqual(img.BackendOptions, [][]any{{"a", "BR", int64(1), nil, nil}}) || img.Services != nil {
		t.Fatalf("%+v, %v", img, err)
	}
}

// TestColumnsAddedHaveTheirTypes: what is written into a file of an earlier
// edgeproxy is the same value as in one made today, so that the two agree.
func TestColumnsAddedHaveTheirTypes(t *testing.T) {
	path := newPath(t)
	raw(t, made(t, path, "a"), earlierServices, "PRAGMA user_version = 1")
	old, today := newPop(t, path, "sa"), newPop(t, newPath(t), "us")
	old.fold()
	const write = "INSERT INTO services (app, affinity_ttl, listen, max_connections) VALUES ('%s', '0', 443, '7')"
	raw(t, old.path, fmt.Sprintf(write, "old"))
	raw(t, today.path, fmt.Sprintf(write, "today"))
	old.fold()
	today.fold()
	today.pull(old, 300)
	old.pull(today, 300)
	agree(t, old, today)
	const types = "SELECT group_concat(typeof(affinity_ttl) || typeof(listen) || typeof(max_connections)) FROM services"
	if a, b := cell(t, old.path, types), cell(t, today.path, types); a != "integertextinteger,integertextinteger" || a != b {
		t.Errorf("types %s and %s", a, b)
	}
}
