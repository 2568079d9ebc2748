package health

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// TestRiseAndFall: each letter is a result, + or -; the word under it the state after it.
func TestRiseAndFall(t *testing.T) {
	c := mesh.DefaultCheck // rise 2, fall 3
	for _, line := range []string{
		"+up -up -up -down -down +down -down +down +up",
		"-down +down +up -up +up -up -up -down",
		"+up",
		"-down",
	} {
		var s State
		for i, word := range strings.Fields(line) {
			at := noon.Add(time.Duration(i) * time.Second)
			before := s
			s = s.Next(c, Result{OK: word[0] == '+', Why: "refused", At: at})
			if want := word[1:] == "up"; !s.Known || s.Up != want {
				t.Fatalf("%s: after %d results %+v", line, i+1, s)
			}
			if (s.Up != before.Up || !before.Known) != s.Since.Equal(at) {
				t.Fatalf("%s: after %d results since %v", line, i+1, s.Since)
			}
			if against := (word[0] == '+') != s.Up; against != (s.Pause(c) < c.Interval) {
				t.Fatalf("%s: after %d results the next check is in %v", line, i+1, s.Pause(c))
			}
		}
	}
}

func pops(places ...string) (list []mesh.POP) {
	for i, r := range places {
		at := geo.Vector{}
		if p, ok := geo.RegionPosition(geo.Region(r)); ok {
			at = p.Vector()
		}
		list = append(list, mesh.POP{Node: fmt.Sprintf("%s-%d", r, i), Region: geo.Region(r), Position: at})
	}
	return list
}

func position(r geo.Region) geo.Vector {
	p, ok := geo.RegionPosition(r)
	if !ok {
		return geo.Vector{}
	}
	return p.Vector()
}

func TestCheckers(t *testing.T) {
	for _, c := range []struct {
		region geo.Region
		pops   []mesh.POP
		want   int
		from   geo.Region
	}{
		{"sa", pops("sa", "sa", "sa", "us", "eu"), 2, "sa"},
		{"sa", pops("sa", "us", "us"), 1, "sa"},
		{"sa", pops("us", "us", "eu", "ap"), 2, "us"}, // nearest to São Paulo is Ashburn
		{"mars", pops("us", "eu", "eu"), 2, "eu"},     // its place is not known: the first by code
		{"eu", pops("mars", "us"), 1, "us"},           // a POP at an unknown place is the farthest
		{"sa", nil, 0, ""},
	} {
		got := NewDuty(c.pops).Checkers("b", c.region, position(c.region))
		if len(got) != c.want || slices.ContainsFunc(got, func(n string) bool { return !strings.HasPrefix(n, string(c.from)) }) {
			t.Errorf("%s among %v: %v, want %d of %s", c.region, c.pops, got, c.want, c.from)
		}
		slices.Reverse(c.pops)
		if again := NewDuty(c.pops).Checkers("b", c.region, position(c.region)); !slices.Equal(got, again) {
			t.Errorf("%v, and %v in another order", got, again)
		}
	}
}

// TestCheckersAreSpread: every POP gets about its share, and one that ends
// moves no backend that it did not check.
func TestCheckersAreSpread(t *testing.T) {
	all := pops("sa", "sa", "sa", "sa", "sa")
	count := map[string]int{}
	for i := range 2000 {
		id := fmt.Sprintf("sa-node-%d", i)
		two := NewDuty(all).Checkers(id, "sa", position("sa"))
		for _, n := range two {
			count[n]++
		}
		left := NewDuty(all[1:]).Checkers(id, "sa", position("sa"))
		for _, n := range two {
			if n != all[0].Node && !slices.Contains(left, n) {
				t.Fatalf("%s: %v, without %s %v", id, two, all[0].Node, left)
			}
		}
	}
	for _, p := range all {
		if n := count[p.Node]; n < 650 || n > 950 { // 800, six standard deviations are 130
			t.Errorf("%s checks %d of 2000, want about 800: %v", p.Node, n, count)
		}
	}
}

func said(pop string, seq uint64, verdicts map[string]Verdict) Report {
	return Report{POP: pop, Incarnation: 1, Seq: seq, At: noon, Verdicts: verdicts}
}

func up() Verdict             { return Verdict{Up: true, Since: noon} }
func down(why string) Verdict { return Verdict{Since: noon, Why: why} }

// TestDisagreement: one POP that reaches the backend is enough.
func TestDisagreement(t *testing.T) {
	b := NewBoard()
	if b.Down("a") {
		t.Error("down without a verdict")
	}
	b.Learn(said("p", 1, map[string]Verdict{"a": down("refused")}), noon)
	if !b.Down("a") {
		t.Error("up, though the only verdict says down")
	}
	b.Learn(said("q", 1, map[string]Verdict{"a": up()}), noon)
	if b.Down("a") {
		t.Error("down, though q reaches it")
	}
	b.Learn(said("q", 2, map[string]Verdict{"a": down("timeout")}), noon)
	if !b.Down("a") {
		t.Error("up, though both say down")
	}
	want := []Verdict{{POP: "p", Since: noon, Why: "refused"}, {POP: "q", Since: noon, Why: "timeout"}}
	if got := b.Verdicts("a"); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if changed := b.Forget("p"); !slices.Equal(changed, []string{"a"}) || !b.Down("a") {
		t.Errorf("%q changed when p went", changed)
	}
	if b.Forget("q"); b.Down("a") || len(b.Backends()) != 0 {
		t.Errorf("%q are left when all are gone", b.Backends())
	}
}

func TestLearn(t *testing.T) {
	b := NewBoard()
	learn := func(r Report, now time.Time, want ...string) {
		t.Helper()
		got := b.Learn(r, now)
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, want) {
			t.Errorf("%q changed, want %q", got, want)
		}
	}
	learn(said("p", 2, map[string]Verdict{"a": up()}), noon, "a")
	learn(said("p", 1, map[string]Verdict{"a": down("old")}), noon)                      // overtaken
	learn(said("p", 2, map[string]Verdict{"a": down("again")}), noon)                    // twice
	learn(said("p", 3, map[string]Verdict{"a": up()}), noon.Add(time.Second))            // nothing new
	learn(Report{POP: "p", Incarnation: 0, Seq: 9, At: noon, Gone: []string{"a"}}, noon) // of an earlier life
	learn(Report{POP: "p", Incarnation: 1, Seq: 4, At: noon, Gone: []string{"a", "x"}}, noon, "a")
	learn(said("p", 5, map[string]Verdict{"a": down("x")}), noon, "a")
	learn(Report{POP: "p", Incarnation: 1, Seq: 6, At: noon, Whole: true}, noon, "a") // it checks nothing any more
	learn(said("p", 7, map[string]Verdict{"a": down("x")}), noon, "a")
	reborn := Report{POP: "p", Incarnation: 2, Seq: 1, At: noon}
	learn(reborn, noon, "a")
	learn(Report{POP: "q", Incarnation: 1, Seq: 1, At: noon, Verdicts: map[string]Verdict{"a": up(), "b": up()}}, noon.Add(Lease+1)) // too old to count yet
	learn(Report{POP: "q", Incarnation: 1, Seq: 2, At: noon.Add(Lease), Gone: []string{"a"}}, noon.Add(Lease+1), "a", "b")
	learn(Report{POP: "q", Incarnation: 1, Seq: 3, At: noon, Gone: []string{"b"}}, noon, "b")
	learn(Report{POP: "q", Incarnation: 1, Seq: 4, At: noon.Add(time.Hour), Verdicts: map[string]Verdict{"a": {Since: noon.Add(2 * time.Hour)}}}, noon, "a")
	if v := b.Verdicts("a"); len(v) != 1 || v[0].Since.After(noon) {
		t.Errorf("%+v: a verdict from the future", v)
	}
	if !b.Fresh("q", Lease, noon.Add(Lease)) || b.Fresh("q", Lease, noon.Add(Lease+1)) || b.Fresh("nobody", Lease, noon) {
		t.Error("freshness does not end with the time")
	}
	if got := b.Expire(noon.Add(Lease)); got != nil {
		t.Errorf("%q changed at the end of the lease", got)
	}
	if got := b.Expire(noon.Add(Lease + 1)); !slices.Equal(got, []string{"a"}) {
		t.Errorf("%q changed after the lease", got)
	}
}

// TestStoppedPOPGoesOn: what it said before counts again with its next word.
func TestStoppedPOPGoesOn(t *testing.T) {
	b := NewBoard()
	b.Learn(said("p", 1, map[string]Verdict{"a": down("x"), "b": up()}), noon)
	late := noon.Add(Lease + time.Second)
	if b.Expire(late); b.Down("a") || len(b.Backends()) != 0 {
		t.Errorf("%q count after the lease", b.Backends())
	}
	changed := b.Learn(Report{POP: "p", Incarnation: 1, Seq: 2, At: late, Gone: []string{"b"}}, late)
	if slices.Sort(changed); !slices.Equal(slices.Compact(changed), []string{"a", "b"}) || !b.Down("a") || !slices.Equal(b.Backends(), []string{"a"}) {
		t.Errorf("%q changed, %q count after it went on", changed, b.Backends())
	}
	gone := late.Add(remembered + time.Second)
	b.Expire(gone)
	b.Learn(Report{POP: "p", Incarnation: 1, Seq: 3, At: gone}, gone)
	if len(b.Backends()) != 0 {
		t.Errorf("%q: what it said long ago counts again", b.Backends())
	}
}

// TestVerdictsAreBounded: a POP that names backends for ever costs so much and no more.
func TestVerdictsAreBounded(t *testing.T) {
	b := NewBoard()
	for seq := range uint64(20) {
		verdicts := map[string]Verdict{}
		for i := range 5000 {
			verdicts[fmt.Sprint(seq, " ", i)] = down("x")
		}
		b.Learn(said("p", seq+1, verdicts), noon)
	}
	if n := len(b.Backends()); n != maxVerdicts {
		t.Errorf("%d verdicts of one POP are kept, want %d", n, maxVerdicts)
	}
}

// TestBoardIsTheLastWord: whatever was said, lost or forgotten in between, the
// board holds each POP's last word on each backend, and says down where all do.
func TestBoardIsTheLastWord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := NewBoard()
		want := map[string]map[string]bool{} // by POP, by backend
		seq := uint64(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			pop := rapid.SampledFrom([]string{"p", "q", "r"}).Draw(t, "pop")
			id := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "backend")
			seq++
			r := Report{POP: pop, Incarnation: 1, Seq: seq, At: noon}
			if want[pop] == nil {
				want[pop] = map[string]bool{}
			}
			switch rapid.SampledFrom([]string{"up", "down", "gone", "whole", "forget"}).Draw(t, "what") {
			case "up":
				r.Verdicts, want[pop][id] = map[string]Verdict{id: up()}, true
			case "down":
				r.Verdicts, want[pop][id] = map[string]Verdict{id: down("x")}, false
			case "gone":
				r.Gone = []string{id}
				delete(want[pop], id)
			case "whole":
				r.Whole, r.Verdicts = true, map[string]Verdict{id: up()}
				want[pop] = map[string]bool{id: true}
			case "forget":
				delete(want, pop)
				b.Forget(pop)
				continue
			}
			b.Learn(r, noon)
		}
		for _, id := range []string{"a", "b"} {
			words := map[string]bool{}
			for pop, m := range want {
				if v, ok := m[id]; ok {
					words[pop] = v
				}
			}
			got := map[string]bool{}
			for _, v := range b.Verdicts(id) {
				got[v.POP] = v.Up
			}
			allDown := len(words) > 0 && !slices.Contains(slices.Collect(maps.Values(words)), true)
			if !maps.Equal(got, words) || b.Down(id) != allDown {
				t.Fatalf("%s: %v, down %v; want %v", id, got, b.Down(id), words)
			}
		}
	})
}
