package node

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/membership"
)

func alive(name string) membership.Member {
	return membership.Member{
		Name: name, Addr: netip.MustParseAddrPort("10.0.0.1:7946"), Status: membership.StatusAlive,
		Tags: map[string]string{tagRole: roleOurs, tagSync: "7947"},
	}
}

func newRoster(t *testing.T, path string) *roster {
	t.Helper()
	r, err := openRoster(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRosterOutlastsDays: a POP that was off for days still waits for those it
// knew, and no longer than a day for one that does not come back.
func TestRosterOutlastsDays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers")
	now := time.Now()
	then := now.Add(-100 * time.Hour)
	r := newRoster(t, path)
	if err := r.update([]membership.Member{alive("a"), alive("b")}, then); err != nil {
		t.Fatal(err)
	}
	if err := r.update([]membership.Member{alive("b")}, then.Add(20*time.Hour)); err != nil {
		t.Fatal(err)
	}
	r = newRoster(t, path)
	if err := r.update(nil, now); err != nil || !slices.Equal(r.names(), []string{"a", "b"}) {
		t.Errorf("%v, %v", r.names(), err)
	}
	if err := r.update([]membership.Member{alive("b")}, now.Add(6*time.Hour)); err != nil || !slices.Equal(r.names(), []string{"b"}) {
		t.Errorf("%v, %v: a was last seen a day ago", r.names(), err)
	}
}

// TestRosterIsSavedLater where it could not be at once.
func TestRosterIsSavedLater(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	path := filepath.Join(dir, "peers")
	r := newRoster(t, path)
	all := []membership.Member{alive("a")}
	if err := r.update(all, time.Now()); err == nil {
		t.Fatal("saved where there is no directory")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := r.update(all, time.Now()); err != nil {
		t.Fatal(err)
	}
	if names := newRoster(t, path).names(); !slices.Equal(names, []string{"a"}) {
		t.Errorf("kept %v", names)
	}
}
