package feed

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func key(name string) Key { return Key{Backend, name} }

// told is what a reader was sent, in short.
func told(events []Event) string {
	var all []string
	for _, e := range events {
		s := string(e.Type)
		switch e.Type {
		case Change:
			s = e.Name + "=" + string(e.State)
		case Delete:
			s = "-" + e.Name
		case Lag:
			s = fmt.Sprint("lag ", e.Missed)
		}
		all = append(all, fmt.Sprintf("%s@%d", s, e.ID.Arrival))
	}
	return strings.Join(all, " ")
}

func expect(t *testing.T, l *Log, r *Reader, want string) {
	t.Helper()
	if got := told(l.Next(r, 1000)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func put(l *Log, name, state string) { l.Put(key(name), "", []byte(state), start) }

func TestSnapshotThenLive(t *testing.T) {
	l := NewLog("sa", 7)
	put(l, "a", "1")
	put(l, "b", "1")
	put(l, "a", "2")
	l.Delete(key("b"), start)
	put(l, "c", "1")
	r := l.Open(nil, Filter{})
	expect(t, l, r, "reset@0 a=2@3 c=1@5 ready@5")
	expect(t, l, r, "")
	put(l, "c", "1") // nothing new
	expect(t, l, r, "")
	put(l, "b", "3")
	l.Delete(key("a"), start)
	expect(t, l, r, "b=3@6 -a@7")
}

func TestResume(t *testing.T) {
	l := NewLog("sa", 7)
	for _, s := range []string{"1", "2", "3"} {
		put(l, "a", s)
		put(l, "b", s)
	}
	expect(t, l, l.Open(&ID{"sa", 7, 3}, Filter{}), "a=3@5 b=3@6 ready@6")
	expect(t, l, l.Open(&ID{"sa", 7, 6}, Filter{}), "ready@6")
	expect(t, l, l.OpenNow(Filter{}), "ready@6")
	for _, id := range []ID{{"us", 7, 3}, {"sa", 6, 3}, {"sa", 8, 3}, {"sa", 7, 7}} {
		r := l.Open(&id, Filter{})
		if e := l.Next(r, 1000)[0]; e.Type != Reset || e.Reason == "" {
			t.Errorf("%s: %+v, want a reset and why", id, e)
		}
	}
}

// TestLag: what was overwritten is counted, and only that.
func TestLag(t *testing.T) {
	l := NewLog("sa", 7)
	put(l, "a", "1")
	r := l.Open(nil, Filter{})
	backends := l.Open(nil, Filter{Kinds: []Kind{Member}})
	expect(t, l, r, "reset@0 a=1@1 ready@1")
	expect(t, l, backends, "reset@0 ready@1")
	for i := range 5 {
		put(l, "a", fmt.Sprint("x", i))
		put(l, fmt.Sprint("n", i), "1")
	}
	expect(t, l, r, "lag 4@1 n0=1@3 n1=1@5 n2=1@7 n3=1@9 a=x4@10 n4=1@11")
	expect(t, l, backends, "")
}

// TestReadyAfterAll: a key that changes while the snapshot is read belongs to it.
func TestReadyAfterAll(t *testing.T) {
	l := NewLog("sa", 7)
	for _, k := range []string{"a", "b", "c"} {
		put(l, k, "1")
	}
	r := l.Open(nil, Filter{})
	if got, want := told(l.Next(r, 2)), "reset@0 a=1@1"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	put(l, "d", "1")
	put(l, "b", "2")
	put(l, "e", "1")
	expect(t, l, r, "c=1@3 d=1@4 b=2@5 ready@5 e=1@6")
}

func TestFilter(t *testing.T) {
	l := NewLog("sa", 7)
	l.Put(key("a"), "shop", []byte("1"), start)
	l.Put(key("b"), "blog", []byte("1"), start)
	l.Put(Key{Health, "a"}, "shop", []byte("up"), start)
	shop := l.Open(nil, Filter{App: "shop"})
	backends := l.Open(nil, Filter{Kinds: []Kind{Backend}, App: "shop"})
	expect(t, l, shop, "reset@0 a=1@1 a=up@3 ready@3")
	expect(t, l, backends, "reset@0 a=1@1 ready@3")
	l.Put(key("a"), "blog", []byte("2"), start) // leaves
	l.Put(key("b"), "shop", []byte("2"), start) // comes
	l.Put(key("a"), "blog", []byte("3"), start)
	expect(t, l, backends, "-a@4 b=2@7")
	expect(t, l, l.Open(nil, Filter{App: "shop"}), "reset@0 a=up@3 b=2@7 ready@8")
	for i := range 3 { // of no concern to who was told that it left
		l.Put(key("a"), "blog", fmt.Append(nil, i), start)
		l.Put(key("c"), "shop", fmt.Append(nil, i), start)
		expect(t, l, backends, fmt.Sprintf("c=%d@%d", i, 10+2*i))
	}
	l.Delete(key("a"), start)
	expect(t, l, l.Open(&ID{"sa", 7, 7}, Filter{App: "shop"}), "c=2@14 ready@15")
	l.Put(key("a"), "shop", []byte("4"), start) // comes back
	expect(t, l, backends, "a=4@16")
}

// TestForgotten: deletions are kept for a time and up to a number, and whoever
// may have missed one is reset, also while it reads.
func TestForgotten(t *testing.T) {
	l := NewLog("sa", 7)
	put(l, "a", "1")
	put(l, "b", "1")
	slow := l.Open(nil, Filter{})
	expect(t, l, slow, "reset@0 a=1@1 b=1@2 ready@2")
	l.Delete(key("a"), start)
	put(l, "c", "1")
	expect(t, l, l.Open(&ID{"sa", 7, 2}, Filter{}), "-a@3 c=1@4 ready@4")
	l.Put(key("d"), "", []byte("1"), start.Add(keepDeleted+1))
	expect(t, l, l.Open(&ID{"sa", 7, 3}, Filter{}), "c=1@4 d=1@5 ready@5")
	expect(t, l, l.Open(&ID{"sa", 7, 2}, Filter{}), "reset@0 b=1@2 c=1@4 d=1@5 ready@5")
	expect(t, l, slow, "reset@0 b=1@2 c=1@4 d=1@5 ready@5")

	for i := range 3 * mostDeleted {
		put(l, fmt.Sprint("x", i), "1")
		l.Delete(key(fmt.Sprint("x", i)), start.Add(keepDeleted+1))
	}
	for range 3 * mostDeleted { // one key again and again
		put(l, "y", "1")
		l.Delete(key("y"), start.Add(keepDeleted+1))
	}
	for i := range 3 * mostDeleted { // one from app to app
		l.Put(key("z"), fmt.Sprint(i%(2*mostDeleted)), nil, start.Add(keepDeleted+1))
	}
	if len(l.graves) > mostDeleted || len(l.left) > mostDeleted || len(l.keys) > mostDeleted+10 || len(l.slots) > 4*mostDeleted {
		t.Errorf("%d graves, %d keys, %d slots are kept", len(l.graves), len(l.keys), len(l.slots))
	}
}

// TestReadersAgree is the promise: readers that are slow, cut, resumed and
// filtered at random end with the last state of every key, see nothing twice
// without a reset, are told truly how much they missed, and are ready only with
// everything that was there when they began.
func TestReadersAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := NewLog("sa", 7)
		m := &model{t: t, log: l, states: map[Key]state{}, now: start}
		for range 3 {
			m.watchers = append(m.watchers, &watcher{model: m, gone: map[Key]bool{}, filter: rapid.SampledFrom([]Filter{
				{}, {Kinds: []Kind{Health}}, {App: "one"}, {App: "two"}, {Kinds: []Kind{Backend, Member}, App: "two"}}).Draw(t, "filter")})
		}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			switch w := rapid.SampledFrom(m.watchers).Draw(t, "who"); rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				w.connect()
			case 1, 2, 3:
				w.read(rapid.IntRange(1, 5).Draw(t, "most"))
			case 4:
				m.now = m.now.Add(rapid.SampledFrom([]time.Duration{time.Minute, keepDeleted + 1}).Draw(t, "time"))
			default:
				m.write()
			}
		}
		for _, w := range m.watchers {
			w.connect()
			for w.read(4) {
			}
			w.agrees()
		}
	})
}

type state struct{ app, text string }

type model struct {
	t        *rapid.T
	log      *Log
	now      time.Time
	states   map[Key]state
	changes  int
	watchers []*watcher
}

func (m *model) write() {
	k := Key{rapid.SampledFrom(Kinds).Draw(m.t, "kind"), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(m.t, "name")}
	before := map[*watcher]bool{}
	for _, w := range m.watchers {
		before[w] = w.owes(k)
	}
	last := m.log.last
	if rapid.IntRange(0, 3).Draw(m.t, "delete") == 0 {
		m.log.Delete(k, m.now)
		delete(m.states, k)
	} else {
		m.changes++
		s := state{rapid.SampledFrom([]string{"", "one", "two", "three"}).Draw(m.t, "app"), fmt.Sprint(m.changes)}
		m.log.Put(k, s.app, []byte(s.text), m.now)
		m.states[k] = s
	}
	if m.log.last == last {
		return
	}
	for _, w := range m.watchers {
		if before[w] {
			w.missed += 2 // its state, and that it left
		}
		if _, back := w.wanted()[k]; back {
			delete(w.gone, k)
		}
	}
}

// watcher is a client that keeps what it is told.
type watcher struct {
	*model
	filter Filter
	reader *Reader
	id     *ID
	states map[Key]string
	seen   map[string]bool // since the last reset
	ready  bool
	began  map[Key]bool // that were there when it began
	told   map[Key]bool // of which it has heard since, or had before
	gone   map[Key]bool // of which it was told that they are, and they did not come back
	fresh  bool         // nothing was read since it connected
	missed uint64       // most that it may be told
}

// owes says whether a change of the key now would overwrite one that the
// watcher has not got.
func (w *watcher) owes(k Key) bool {
	e, left := w.log.keys[k], w.log.left[place{k, w.filter.App}]
	return w.reader != nil && (e != nil && e.arrival > w.reader.after || left != nil && left.arrival > w.reader.after)
}

func (w *watcher) connect() {
	if w.reader != nil {
		w.log.Close(w.reader)
	}
	w.reader = w.log.Open(w.id, w.filter)
	w.begin()
	w.fresh, w.missed = true, 0
}

// begin notes what a stream that begins now has to bring.
func (w *watcher) begin() {
	w.ready, w.began, w.told = false, map[Key]bool{}, map[Key]bool{}
	for k, text := range w.wanted() {
		w.began[k], w.told[k] = true, w.states[k] == text
	}
}

// wanted is what the filter lets through.
func (w *watcher) wanted() map[Key]string {
	all := map[Key]string{}
	for k, s := range w.model.states {
		if (len(w.filter.Kinds) == 0 || slices.Contains(w.filter.Kinds, k.Kind)) && (w.filter.App == "" || w.filter.App == s.app) {
			all[k] = s.text
		}
	}
	return all
}

func (w *watcher) read(most int) (some bool) {
	if w.reader == nil {
		w.connect()
	}
	events := w.log.Next(w.reader, most)
	if len(events) > most+2 {
		w.t.Fatalf("%d events where %d were asked for", len(events), most)
	}
	for _, e := range events {
		w.take(e)
	}
	return len(events) > 0
}

func (w *watcher) take(e Event) {
	what := fmt.Sprint(e.Type, e.Key, e.ID.Arrival)
	switch e.Type {
	case Reset:
		w.states, w.seen, w.told = map[Key]string{}, map[string]bool{}, map[Key]bool{}
		clear(w.gone)
		if !w.fresh || e.Reason == whyTooSlow {
			w.begin()
		}
	case Ready:
		if w.ready {
			w.t.Fatal("ready twice")
		}
		w.ready = true
		for k := range w.began {
			if _, now := w.wanted()[k]; now && !w.told[k] {
				w.t.Fatalf("ready without %v", k)
			}
		}
	case Lag:
		if e.Missed == 0 || e.Missed > w.missed {
			w.t.Fatalf("told of %d changes that were missed, at most %d were", e.Missed, w.missed)
		}
		w.missed -= e.Missed
	case Change, Delete:
		if w.seen[what] {
			w.t.Fatalf("%s seen twice", what)
		}
		w.seen[what], w.told[e.Key] = true, true
		if e.Type == Change {
			w.states[e.Key] = string(e.State)
			delete(w.gone, e.Key)
			break
		}
		delete(w.states, e.Key)
		if w.gone[e.Key] {
			w.t.Fatalf("%s comes again, and it never came back", what)
		}
		w.gone[e.Key] = true
	}
	if w.id != nil && e.Type != Reset && e.ID.Arrival < w.id.Arrival {
		w.t.Fatalf("%s comes after %d", what, w.id.Arrival)
	}
	w.id, w.fresh = &e.ID, false
}

func (w *watcher) agrees() {
	if want := w.wanted(); !maps.Equal(w.states, want) || !w.ready {
		w.t.Fatalf("filter %+v: ready %v with %v, want %v", w.filter, w.ready, w.states, want)
	}
}

// BenchmarkNext: what a change costs the log and a reader that keeps up.
func BenchmarkNext(b *testing.B) {
	l := NewLog("sa", 7)
	for i := range 10_000 {
		put(l, fmt.Sprint(i), "1")
	}
	r := l.OpenNow(Filter{})
	for i := 0; b.Loop(); i++ {
		put(l, fmt.Sprint(i%10_000), fmt.Sprint(i))
		l.Next(r, 64)
	}
}
