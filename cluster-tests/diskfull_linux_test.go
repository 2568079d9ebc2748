package clustertests

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// all is nil where every POP knows these faults and no others: the POP and words
// of each.
func (d *diskTest) all(faults ...string) error {
	slices.Sort(faults)
	for _, p := range d.pops {
		st, err := look[api.Status](p, "status")
		if err != nil {
			return err
		}
		var got []string
		for _, f := range st.Faults {
			got = append(got, f.POP+" "+f.Error)
		}
		slices.Sort(got)
		if !slices.EqualFunc(got, faults, func(is, want string) bool { return holds(is, strings.Fields(want)) }) {
			return fmt.Errorf("%s knows the faults %q, want %q", p.Node, got, faults)
		}
	}
	return nil
}

// TestFullDiskOfRegistrations: a POP whose disk is full, or writes for ever,
// cannot tell the others of heartbeats, and refuses them: agents go to the next POP, and no backend
// expires, also not on the POP that hears of them no more. One that had expired and is heard is back.
// What it has to say of services the others hear once there is room.
func TestFullDiskOfRegistrations(t *testing.T) {
	t.Parallel()
	certs := t.TempDir()
	d := newDiskTest(t, sixSeconds, allowLoopback, "EDGEPROXY_CERT_DIR="+certs, "EDGEPROXY_DB_RELOAD_SECS=60")
	site := freeAddress(t)
	d.good.signal(t, syscall.SIGSTOP) // of an address on one machine only one POP can be the first
	d.bad.sql(t, service("site", map[string]string{"listen": site, "mode": "tls-terminate", "sni": "site.example"}))
	listens(t, site)
	d.good.signal(t, syscall.SIGCONT)
	eventually(t, soon, func() error { return d.all(d.bad.Node+" has no certificate", d.good.Node+" address is in use") })
	b := startBackend(t, "sa-2", "sa")
	var a *agent
	eventually(t, soon, func() error { // a disk that is slow for a second sends it to the other
		if a != nil {
			a.kill()
		}
		a = startAgent(t, b, []*pop{d.bad, d.good})
		onAll(t, soon, d.pops, "sa-2", "up")
		if pop := d.good.witness(t, "sa-2"); pop != d.bad.Node {
			return fmt.Errorf("it registered with %s", pop)
		}
		return nil
	})
	d.bad.register(t, startBackend(t, "sa-3", "sa"), "") // which has no agent
	onAll(t, soon, d.pops, "sa-3", "expired")
	beat := func(code int, words string) error {
		if a := d.bad.ask(t, "POST", "/api/v1/heartbeat/sa-3", ""); a.code != code || !strings.Contains(a.body, words) {
			return fmt.Errorf("a heartbeat is answered %d %s, want %d %s", a.code, a.body, code, words)
		}
		return nil
	}
	stays := func(d *diskTest, within time.Duration) {
		t.Helper()
		for end := time.Now().Add(within); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
			for _, p := range d.pops {
				if state := p.states(t)["sa-2"]; state != "up" {
					t.Fatalf("%s has it as %s: %s", p.Node, state, p.backends(t)["sa-2"].Why)
				}
			}
		}
	}

	d.disk.arm(1, syscall.ENOSPC)
	newAuthority(t).issue(t, "site.example").install(t, certs+"/site")
	stays(d, 7*time.Second)
	eventually(t, soon, func() error { return beat(http.StatusServiceUnavailable, "disk") })
	onAll(t, soon, []*pop{d.bad}, "sa-3", "up")
	stays(d, 4*time.Second)
	if err := d.disk.hit(); err != nil {
		t.Error(err)
	}
	if pop := d.good.witness(t, "sa-2"); pop != d.good.Node {
		t.Errorf("the last heartbeat was %s's", pop)
	}

	d.disk.mend()
	eventually(t, soon, d.bad.isReady)
	eventually(t, soon, func() error { return d.all(d.good.Node + " address is in use") })
	eventually(t, soon, func() error {
		if err := beat(http.StatusOK, ""); err != nil {
			return err
		}
		return allHave(t, d.pops, "sa-3", "up")
	})

	d.disk.slowSync(4 * time.Second) // no error, and no end
	eventually(t, soon, func() error { return beat(http.StatusServiceUnavailable, "too long") })
	stays(d, 8*time.Second)
	d.disk.slowSync(0)
	stays(d, 4*time.Second)
	settle(t, converged, d.pops...)
}
