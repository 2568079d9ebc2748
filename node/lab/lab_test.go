package lab

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/geo/mmdb"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ownTemp gives the test a TMPDIR, and fails it where something is left in it.
func ownTemp(t *testing.T) string {
	t.Helper()
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Cleanup(func() {
		if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return tmp
}

func script(t *testing.T, text string) []Step {
	t.Helper()
	steps, err := ParseScript(text)
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

func TestTheWholeStoryHoldsAndNothingIsLeftBehind(t *testing.T) {
	ownTemp(t)
	shown := 0
	report, err := Run(t.Context(), Config{
		Script: script(t, "kill, revive, cut, heal, weight, drain, undrain, join"), Log: zerolog.Nop(),
		Say:  func(at time.Duration, line string) { t.Logf("%6.2fs  %s", at.Seconds(), line) },
		Show: func(r *Report) { shown += len(r.Table()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK() || report.Interrupted {
		t.Error(report.Table() + report.Verdicts())
	}
	if len(report.Faults) != 8 || len(report.Clients) < 30 || len(report.POPs) != 4 || len(report.Backends) != 12 || shown == 0 {
		t.Errorf("%d steps, %d countries, %d POPs, %d backends; want 8, 30 and more, 4, 12", len(report.Faults), len(report.Clients), len(report.POPs), len(report.Backends))
	}
	for _, p := range report.POPs {
		if p.Connections == 0 || p.Cut {
			t.Errorf("%+v: want clients, and no cut", p)
		}
	}
	if report.Added.Samples == 0 || report.Propagation.Samples == 0 || report.Propagation.P50 <= 0 {
		t.Errorf("added %+v, propagation %+v: want figures", report.Added, report.Propagation)
	}
	if body, err := json.Marshal(report); err != nil || strings.Contains(string(body), "null") {
		t.Errorf("as JSON %v: want no null: %s", err, body)
	}
}

func TestOnePOPWithOneBackendIsALabToo(t *testing.T) {
	ownTemp(t)
	report, err := Run(t.Context(), Config{POPs: 1, Backends: 1, Users: 5, Duration: 500 * time.Millisecond, Log: zerolog.Nop()})
	if err != nil || !report.OK() || len(report.NotPlayed) != len(parts) {
		t.Fatalf("%+v, %v", report, err)
	}
}

func TestInterruptedLabReportsWhatItSaw(t *testing.T) {
	ownTemp(t)
	ctx, cancel := context.WithCancel(t.Context())
	report, err := Run(ctx, Config{Script: script(t, "cut, wait 1h"), Log: zerolog.Nop(), Show: func(r *Report) {
		if len(r.Faults) > 0 {
			cancel()
		}
	}})
	if err != nil || !report.OK() || !report.Interrupted || report.Connections == 0 {
		t.Fatalf("%+v, %v", report, err)
	}
}

// A step that makes no sense where it stands ends the lab with its reason; of
// one that was asked for by a key only the reason is said.
func TestStepsThatCannotBeDone(t *testing.T) {
	ownTemp(t)
	report, err := Run(t.Context(), Config{Script: script(t, "heal"), Log: zerolog.Nop()})
	if err == nil || report == nil || !strings.Contains(err.Error(), "heal") {
		t.Errorf("%v, %v: want an error that names the step, and the report", report, err)
	}
	keys := make(chan Step, 2)
	keys <- Step{Verb: "revive"}
	keys <- Step{Verb: "weight"}
	close(keys)
	var said strings.Builder
	report, err = Run(t.Context(), Config{Keys: keys, Log: zerolog.Nop(), Say: func(_ time.Duration, line string) { said.WriteString(line + "\n") }})
	if err != nil || !report.OK() || len(report.Faults) != 1 || !strings.Contains(said.String(), "cannot revive") {
		t.Errorf("%v, %+v:\n%s", err, report, said.String())
	}
}

func TestConfigThatMakesNoSense(t *testing.T) {
	for _, cfg := range []Config{{POPs: 9}, {Backends: 65}, {Users: -1}, {Users: 60, Backends: 3}} {
		if _, err := Run(t.Context(), cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}

func TestClientsComeFromAllContinents(t *testing.T) {
	table, err := geo.NewTable(nil)
	if err != nil {
		t.Fatal(err)
	}
	resolver, err := mmdb.New(mmdb.Config{}, table)
	if err != nil {
		t.Fatal(err)
	}
	all, err := clients(resolver)
	if err != nil {
		t.Fatal(err)
	}
	countries := map[string]bool{}
	in := map[geo.Region]int{}
	for _, c := range all {
		if !c.place.At.Known() || countries[c.place.Country] {
			t.Errorf("%s is in %q: want a country with a place, each once", c.addr, c.place.Country)
		}
		countries[c.place.Country] = true
		in[c.place.Region]++
		if n := c.neighbour(resolver, 77); resolver.Lookup(n).Country != c.place.Country {
			t.Errorf("%s, a neighbour of %s, is in another country", n, c.addr)
		}
	}
	for _, r := range []geo.Region{geo.SA, geo.US, geo.EU, geo.AP, geo.AF} {
		if in[r] < 5 {
			t.Errorf("%d countries in %s, want 5", in[r], r)
		}
	}
}

// What a lab that was killed has left, the next one removes; what is not a
// lab's, or one's that runs, stays.
func TestLeftOverDirectoriesAreRemoved(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	running, err := newTempDir()
	if err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(tmp, dirName+"1")
	other := filepath.Join(tmp, "edgeproxy-1")
	fresh := filepath.Join(tmp, dirName+"2")
	for _, dir := range []string{killed, other, fresh} {
		if err := os.MkdirAll(filepath.Join(dir, "pop-sa"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(killed, lockName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	next, err := newTempDir()
	if err != nil {
		t.Fatal(err)
	}
	for dir, stays := range map[string]bool{killed: false, other: true, fresh: true, running.path: true, next.path: true} {
		if _, err := os.Stat(dir); (err == nil) != stays {
			t.Errorf("%s is there: %v, want %v", dir, err == nil, stays)
		}
	}
	for _, d := range []*tempDir{running, next} {
		if err := d.remove(); err != nil {
			t.Error(err)
		}
	}
}
