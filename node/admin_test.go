package node

import (
	"database/sql"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/mesh"
)

// execute writes to a POP's database as an operator does with sqlite3, and waits
// until the POP has it.
func execute(t *testing.T, n *Node, statement string) {
	t.Helper()
	db, err := sql.Open(sqlite.Driver, n.store().Path())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "PRAGMA busy_timeout = 5000; "+statement); err != nil {
		t.Fatal(err)
	}
	if err := n.picture().refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// refusedField is the field of a request that was refused.
func refusedField(t *testing.T, err error) string {
	t.Helper()
	fe, ok := errors.AsType[*mesh.FieldError](err)
	if !ok {
		t.Fatalf("%v, want what field is wrong", err)
	}
	return fe.Field
}

// TestAddressOfPOPIsRefused: what would be left out as a loop is not written.
func TestAddressOfPOPIsRefused(t *testing.T) {
	n := start(t)
	front := n.Addrs().Listen
	if _, err := n.CreateBackend(t.Context(), api.Patch{ID: new("self"), Region: new("us"), Addr: &front}); refusedField(t, err) != "addr" || !strings.Contains(err.Error(), "does not relay to a POP") {
		t.Errorf("made: %v", err)
	}
	if _, err := n.Backend(t.Context(), "self"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("after it was refused: %v", err)
	}
	if _, err := n.CreateBackend(t.Context(), api.Patch{ID: new("mv"), Region: new("us"), Addr: new("10.0.0.9:80")}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.UpdateBackend(t.Context(), "mv", api.Patch{Addr: &front}); refusedField(t, err) != "addr" {
		t.Errorf("moved: %v", err)
	}
	if b, err := n.Backend(t.Context(), "mv"); err != nil || b.Addr != "10.0.0.9:80" || b.State != "up" {
		t.Errorf("after the move was refused: %+v, %v", b, err)
	}
}

// TestLeftOutBackendIsReached: a row written by SQL that is left out as a loop
// can be looked at, changed and removed.
func TestLeftOutBackendIsReached(t *testing.T) {
	n := start(t)
	host, port, _ := strings.Cut(n.Addrs().Listen, ":")
	execute(t, n, "INSERT INTO backends (id, app, region, wg_ip, port) VALUES ('self', '', 'us', '"+host+"', "+port+")")
	b, err := n.Backend(t.Context(), "self")
	if err != nil || b.State != "loop" || !strings.Contains(b.Why, "does not relay to a POP") {
		t.Errorf("%+v, %v", b, err)
	}
	if b, err = n.UpdateBackend(t.Context(), "self", api.Patch{Draining: new(true)}); err != nil || b.State != "draining" || b.Why == "" {
		t.Errorf("drained: %+v, %v", b, err)
	}
	if b, err = n.UpdateBackend(t.Context(), "self", api.Patch{Draining: new(false), Addr: new(n.Addrs().Listen)}); err != nil || b.State != "loop" {
		t.Errorf("with the address that it has: %+v, %v", b, err)
	}
	if b, err = n.UpdateBackend(t.Context(), "self", api.Patch{Addr: new("10.0.0.9:80")}); err != nil || b.State != "up" || b.Why != "" {
		t.Errorf("mended: %+v, %v", b, err)
	}
	if err = n.DeleteBackend(t.Context(), "self"); err != nil {
		t.Error(err)
	}
	if _, err = n.Backend(t.Context(), "self"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("removed: %v", err)
	}
}

// TestExplainIsOfDefaultListener: without an app, explain names whom the default
// listener would take.
func TestExplainIsOfDefaultListener(t *testing.T) {
	n := start(t, "EDGEPROXY_APP=shop")
	for id, app := range map[string]string{"w1": "web", "s1": "shop"} {
		if _, err := n.CreateBackend(t.Context(), api.Patch{ID: &id, App: &app, Region: new("us"), Addr: new("10.0.0.9:80")}); err != nil {
			t.Fatal(err)
		}
	}
	for app, want := range map[string]string{"": "s1", "shop": "s1", "web": "w1"} {
		if e, err := n.Explain(t.Context(), netip.MustParseAddr("200.160.2.3"), app); err != nil || e.Chosen != want || len(e.Candidates) != 1 {
			t.Errorf("of the app %q: %+v, %v, want %s alone", app, e, err, want)
		}
	}
}
