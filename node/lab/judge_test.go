package lab

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
)

func TestWhereAClientShouldGo(t *testing.T) {
	all := scene{geo.SA: yes, geo.US: yes, geo.EU: yes}
	for _, c := range []struct {
		name                string
		scene               scene
		client, pop, served geo.Region
		right               bool
	}{
		{"its region", all, geo.EU, geo.US, geo.EU, true},
		{"not its POP's, while its own serves", all, geo.EU, geo.US, geo.US, false},
		{"its POP's, where its own has nothing", all, geo.AF, geo.US, geo.US, true},
		{"no third one then", all, geo.AF, geo.US, geo.SA, false},
		{"its POP's, while its own is drained", scene{geo.EU: no, geo.US: yes}, geo.EU, geo.US, geo.US, true},
		{"not its own, while that is drained", scene{geo.EU: no, geo.US: yes}, geo.EU, geo.US, geo.EU, false},
		{"its own, while that changes", scene{geo.EU: maybe, geo.US: yes}, geo.EU, geo.US, geo.EU, true},
		{"its POP's, while its own changes", scene{geo.EU: maybe, geo.US: yes}, geo.EU, geo.US, geo.US, true},
		{"no third one while its own changes", scene{geo.EU: maybe, geo.US: yes, geo.SA: yes}, geo.EU, geo.US, geo.SA, false},
		{"any, where neither serves", scene{geo.SA: yes}, geo.EU, geo.US, geo.SA, true},
	} {
		if got := c.scene.right(c.client, c.pop, c.served); got != c.right {
			t.Errorf("%s: %v, want %v", c.name, got, c.right)
		}
	}
}

func TestARegionServesAsLongAsOneOfItDoes(t *testing.T) {
	tr := truth{backends: map[string]*fact{}}
	tr.add("a", geo.SA)
	tr.add("b", geo.SA)
	if got := tr.standing(geo.SA); got != maybe {
		t.Errorf("new: %v, want maybe", got)
	}
	tr.settle([]string{"a", "b"})
	before := tr.now()
	tr.change([]string{"a"}, func(f *fact) { f.dead = true })
	if got := tr.standing(geo.SA); got != yes {
		t.Errorf("one dead: %v, want yes", got)
	}
	tr.change([]string{"a", "b"}, func(f *fact) { f.draining = true })
	tr.settle([]string{"a", "b"})
	if got := tr.standing(geo.SA); got != no || len(tr.since(before)) != 3 {
		t.Errorf("drained: %v over %v, want no, by way of maybe", got, tr.since(before))
	}
}

// TestWhatGoesWrongIsJudged: each claim about all clients can fail.
func TestWhatGoesWrongIsJudged(t *testing.T) {
	table, err := geo.NewTable(nil)
	if err != nil {
		t.Fatal(err)
	}
	from := func(country string) visit {
		p, _ := table.Place(country)
		return visit{client: client{place: p}, pop: &pop{name: "pop-eu"}, backend: "b", served: geo.EU}
	}
	failed, strayed, broken := from("FR"), from("FR"), from("FR")
	failed.err, strayed.astray = errors.New("reset"), true
	broken.err, broken.broke = errors.New("reset"), true
	for name, c := range map[string]struct {
		visits []visit
		wrong  []int // of the invariants
	}{
		"all well":                     {[]visit{from("DE"), from("FR")}, nil},
		"a country without service":    {[]visit{from("DE"), failed}, []int{0, 1}},
		"a failed connection":          {[]visit{from("FR"), failed}, []int{1}},
		"a client in another region":   {[]visit{from("DE"), strayed}, []int{2}},
		"one that broke with its node": {[]visit{from("FR"), broken}, nil},
	} {
		r := run{tally: newTally(), table: table, began: time.Now()}
		for _, v := range c.visits {
			r.tally.add(&v)
		}
		out := &Report{Backends: []Backend{{ID: "b", Peak: 1, HardLimit: 1}}}
		r.count(out)
		for i, inv := range out.Invariants {
			if inv.OK == slices.Contains(c.wrong, i) {
				t.Errorf("%s: %q is %v (%s)", name, inv.Name, inv.OK, inv.Detail)
			}
		}
	}
	r := run{tally: newTally(), table: table}
	out := &Report{Backends: []Backend{{ID: "b", Peak: 2, HardLimit: 1}}}
	if r.count(out); out.Invariants[3].OK {
		t.Error("two connections of one pass for the hard limit")
	}
}

func TestWhatWasWrittenIsLookedUp(t *testing.T) {
	l := ledger{rows: map[string]map[string]any{}}
	l.set("a", "weight", int64(2))
	l.set("a", "weight", int64(3))
	row := func(weight int64) map[string]any {
		m := map[string]any{"draining": int64(0)}
		for _, c := range columns {
			if c != "draining" {
				m[c] = nil
			}
		}
		m["weight"] = weight
		return m
	}
	for found, want := range map[*map[string]map[string]any]string{
		{"a": row(3)}:              "",
		{"a": row(2)}:              "a.weight is 2, 3 was written",
		{}:                         "a is missing",
		{"a": row(3), "b": row(1)}: "b was never written",
	} {
		if got := l.compare(*found); got != want {
			t.Errorf("%v: %q, want %q", *found, got, want)
		}
	}
}

func TestScripts(t *testing.T) {
	steps, err := ParseScript("# what happens\nkill sa-node-1, wait 2s\n\n  weight eu-node-2 8 # more\n")
	if err != nil || len(steps) != 3 || steps[2].String() != "weight eu-node-2 8" {
		t.Errorf("%v, %v", steps, err)
	}
	for text, want := range map[string]string{
		"":              "holds no steps",
		"# nothing":     "holds no steps",
		"kill\nexplode": `line 2, "explode": no such step`,
		"join ap now":   "too many words",
		"wait":          "how long",
		"wait soon":     "no duration",
		"weight a many": `weight "many"`,
		"weight a 11":   "want 1 to 10",
	} {
		if _, err := ParseScript(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestWhatFitsIsPlayed: and what does not is named, with why.
func TestWhatFitsIsPlayed(t *testing.T) {
	for _, c := range []struct {
		length         time.Duration
		pops, backends int
		left           int
		says           string
	}{
		{20 * time.Second, 3, 9, 0, ""},
		{20 * time.Second, 1, 9, 2, "needs 2 POPs"},
		{20 * time.Second, 3, 1, 2, "2 backends"},
		{5 * time.Second, 3, 9, 4, "a backend dies and comes back: needs 9.5s more"},
		{time.Second, 3, 9, 5, "needs"},
	} {
		steps, left := plan(c.length, c.pops, c.backends)
		if len(left) != c.left || !strings.Contains(strings.Join(left, "\n"), c.says) {
			t.Errorf("%s, %d POPs, %d backends: not played %q, want %d", c.length, c.pops, c.backends, left, c.left)
		}
		for _, s := range steps {
			if err := s.check(); err != nil {
				t.Errorf("%s: %v", s, err)
			}
		}
	}
}
