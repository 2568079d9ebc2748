package lab

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEveryInvariantHoldsAndNothingIsLeftBehind(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	report, err := Run(t.Context(), Config{Duration: 1500 * time.Millisecond, Log: zerolog.Nop()}, func(r *Report) { _ = r.Table() })
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK() {
		t.Errorf("invariants: %+v\n%s", report.Invariants, report.Table())
	}
	for _, c := range report.Clients {
		want := c.Region
		if want == string(geo.AP) || want == string(geo.AF) {
			want = string(geo.SA) // no backends there: the POP's own
		}
		if c.Expected != want || c.Connections == 0 {
			t.Errorf("%s of region %s: expected %q, %d connections", c.Country, c.Region, c.Expected, c.Connections)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestInterruptedLabReportsWhatItSaw(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	report, err := Run(ctx, Config{Duration: time.Hour, Log: zerolog.Nop()}, func(*Report) { cancel() })
	if err != nil || report.Connections == 0 || report.Failed != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
}

func TestWhatGoesWrongIsJudged(t *testing.T) {
	table, err := geo.NewTable(nil)
	if err != nil {
		t.Fatal(err)
	}
	served := func(country string, by geo.Region) visit {
		return visit{country: country, region: geo.EU, backend: "b", served: by}
	}
	for name, c := range map[string]struct {
		visits []visit
		failed int // index of the invariant
	}{
		"a country without service":  {[]visit{served("DE", geo.EU)}, 0},
		"a client in another region": {[]visit{served("DE", geo.EU), served("FR", geo.US)}, 1},
		"a failed connection":        {[]visit{served("DE", geo.EU), served("FR", geo.EU), {country: "FR", err: errors.New("reset")}}, 2},
	} {
		tl := tally{clients: map[string]*ClientCount{}, tried: map[string]bool{"FR": true}}
		for _, v := range c.visits {
			tl.add(v, table, geo.EU)
		}
		r := tl.report()
		for i, inv := range r.Invariants {
			if inv.OK != (i != c.failed) {
				t.Errorf("%s: invariant %q is %v", name, inv.Name, inv.OK)
			}
		}
	}
}
