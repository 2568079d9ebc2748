package sqlite

import (
	"reflect"
	"testing"
)

// earlierTables are those of an edgeproxy that had no services.
const earlierTables = `CREATE TABLE backend_options (id TEXT PRIMARY KEY, country TEXT, draining INTEGER DEFAULT 0);
	INSERT INTO backend_options VALUES ('a', 'BR', 1);`

// TestFileOfAnEarlierVersion: what it lacks is added, what it holds stays, and
// the version stays, so that the earlier edgeproxy opens it again.
func TestFileOfAnEarlierVersion(t *testing.T) {
	path := newPath(t)
	raw(t, made(t, path, "a"), earlierTables, "PRAGMA user_version = 1")
	p := newPop(t, path, "sa")
	p.fold()
	img, err := p.Read(t.Context())
	if err != nil || !reflect.DeepEqual(img.BackendOptions, [][]any{{"a", "BR", int64(1), nil}}) || img.Services != nil {
		t.Fatalf("%+v, %v", img, err)
	}
	if got := cell(t, path, "PRAGMA user_version"); got != "1" {
		t.Errorf("version %s", got)
	}
	raw(t, path, "UPDATE backend_options SET health_check = 'off'", "INSERT INTO services (app, hard_limit) VALUES ('web', 5)")
	if got := stamped(p.fold()); got != "a health_check; web hard_limit health_check panic_threshold soft_limit" {
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
	if err != nil || !reflect.DeepEqual(img.BackendOptions, [][]any{{"a", "BR", int64(1), nil}}) || img.Services != nil {
		t.Fatalf("%+v, %v", img, err)
	}
}
