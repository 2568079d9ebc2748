package clustertests

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// overlay plays the compose file's profile of that name: a client of one POP is
// served by a backend that only the tunnel to the other one reaches.
func (l *lab) overlay(t *testing.T) {
	services := []string{"wg-pop-sa", "wg-pop-us", "wg-node", "wg-client"}
	if _, err := l.run(append([]string{"--profile", "overlay", "up", "--no-build", "-d"}, services...)...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, s := range services {
				if id, err := l.container(s); err == nil {
					log, _ := docker("logs", "--tail", "40", id)
					t.Logf("%s: %s", s, log)
				}
			}
		}
		for _, s := range services { // "down" knows nothing of profiles that it is not given
			if id, err := l.container(s); err == nil {
				_, _ = docker("rm", "-f", "-v", id)
			}
		}
	})
	client, err := l.container("wg-client")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error {
		log, err := docker("logs", "--tail", "3", client)
		if err == nil && !strings.Contains(log, "wg-node") {
			err = fmt.Errorf("the client says %q", log)
		}
		return err
	})
	sa, err := l.container("wg-pop-sa")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, func() error { // the client comes once a second, and each time more is received
		out, err := docker("exec", sa, "/edgeproxy", "wg", "status", "--json")
		var v api.WG
		if err == nil {
			err = json.Unmarshal([]byte(out), &v)
		}
		if err == nil && (v.Mode != "tun" || v.Error != "" || len(v.Peers) != 1 || v.Peers[0].Name != "wg-pop-us" || v.Peers[0].Handshake.IsZero() || v.Peers[0].Received < 1000) {
			err = fmt.Errorf("wg-pop-sa: %+v", v)
		}
		return err
	})
}
