package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// TestDoneJSON: a command that does one thing to one thing names it in JSON where
// that is asked for.
func TestDoneJSON(t *testing.T) {
	pop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer pop.Close()
	for _, command := range []string{
		"backend remove", "service remove", "members forget", "keys use", "keys remove", "wg peer remove", "records quarantine drop",
	} {
		var out bytes.Buffer
		args := append(strings.Fields(command), "x", "--json", "--api", pop.URL)
		if code := run(args, nil, &out, io.Discard, nil); code != 0 || out.String() != "[\n  \"x\"\n]\n" {
			t.Errorf("%s: exit code %d, %q", command, code, out.String())
		}
	}
}

// TestStatesAreExplained: whatever keeps a backend from connections stands in the
// help, and in colour in the tables.
func TestStatesAreExplained(t *testing.T) {
	list, explain := newList(&target{}).Long, newExplain(&cli{}).Long
	for _, e := range []route.Exclusion{
		route.Unhealthy, route.Deleted, route.Draining, route.Full, route.Down, route.Ejected, route.Expired, route.Failing,
	} {
		if !strings.Contains(list, "  "+string(e)+" ") || !strings.Contains(explain, string(e)) {
			t.Errorf("the help of backend list or explain does not say what %s is", e)
		}
		if stateColours[string(e)] == 0 || exclusionColours[e] == 0 {
			t.Errorf("%s has no colour", e)
		}
	}
}

// TestDNSRefusal: who is refused is told by whom, the POP or the servers that it asks.
func TestDNSRefusal(t *testing.T) {
	for recursion, want := range map[bool]string{false: "names no server for it", true: "those that answer refuse it"} {
		err := dnsRefusal(dnsAnswer{Server: "192.0.2.53:53", Name: "example.com.", Rcode: "REFUSED", Recursion: recursion})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("recursion %v: %v, want %q", recursion, err, want)
		}
	}
}
