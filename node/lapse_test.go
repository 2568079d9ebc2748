package node

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// stage is a lapse with the time and the other POPs in the test's hand.
type stage struct {
	lapse
	now      time.Time // mesh time
	steady   time.Time
	words    map[string]time.Time // last of each POP
	expected map[string]bool
	beats    map[string]time.Time
	rows     map[string]*mesh.Registration
	untimed  bool
	deaf     bool
	lag      time.Duration
}

const stageTTL = 30 * time.Second

func newStage() *stage {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	return &stage{lapse: lapse{self: "us"}, now: noon, steady: noon, words: map[string]time.Time{}, expected: map[string]bool{}, beats: map[string]time.Time{}, rows: map[string]*mesh.Registration{}}
}

// registered is a backend whose last heartbeat is so old.
func (s *stage) registered(id, pop string, age time.Duration) {
	s.rows[id] = &mesh.Registration{POP: pop, Heartbeat: s.now.Add(-age), TTL: stageTTL}
}

// pass lets time pass in steps of a quarter of a second, in which these POPs are heard.
func (s *stage) pass(d time.Duration, heard ...string) (expired, gone string) {
	for range max(1, int(d/(250*time.Millisecond))) {
		if d > 0 {
			s.now, s.steady = s.now.Add(250*time.Millisecond), s.steady.Add(250*time.Millisecond)
		}
		for _, pop := range heard {
			s.words[pop] = s.now.Add(-50 * time.Millisecond)
		}
		expired, gone = s.look()
	}
	return expired, gone
}

func (s *stage) look() (expired, gone string) {
	snap := &mesh.Snapshot{}
	for _, id := range slices.Sorted(maps.Keys(s.rows)) {
		snap.Backends = append(snap.Backends, mesh.Backend{ID: id, Registration: s.rows[id]})
	}
	snap.Backends = append(snap.Backends, mesh.Backend{ID: "static"})
	view := sight{
		now: s.now, steady: s.steady, deaf: s.deaf, lag: s.lag,
		heard:    func(pop string) (time.Time, bool) { at, ok := s.words[pop]; return at, ok },
		expected: func(pop string) bool { return s.expected[pop] },
		beat:     func(id string) time.Time { return s.beats[id] },
		whole:    true,
	}
	for pop, is := range s.expected {
		view.whole = view.whole && (!is || s.now.Sub(s.words[pop]) <= longAway)
	}
	if s.untimed {
		view.now = time.Time{}
	}
	out, rows := s.lapse.look(view, snap)
	names := []string{}
	for _, r := range rows {
		names = append(names, r.id)
	}
	return fmt.Sprint(slices.Sorted(maps.Keys(out))), fmt.Sprint(names)
}

// expect fails unless these are out of routing and those are to be deleted.
func expect(t *testing.T, when, expired, gone, wantExpired, wantGone string) {
	t.Helper()
	if expired != wantExpired || gone != wantGone {
		t.Errorf("%s: expired %s, to be deleted %s; want %s and %s", when, expired, gone, wantExpired, wantGone)
	}
}

func TestLapse(t *testing.T) {
	s := newStage()
	s.expected["eu"] = true
	s.registered("mine", "us", 0)
	s.registered("theirs", "eu", 0)
	at := func(when string, d time.Duration, wantExpired, wantGone string) {
		t.Helper()
		expired, gone := s.pass(d, "eu")
		expect(t, when, expired, gone, wantExpired, wantGone)
	}
	at("within the TTL", stageTTL-time.Second, "[]", "[]")
	s.rows["theirs"].Heartbeat = s.now
	at("after the TTL of one", 2*time.Second, "[mine]", "[]")
	s.beats["mine"] = s.now // heard here, and in no row yet
	at("heard again", 250*time.Millisecond, "[]", "[]")
	at("after both", stageTTL+time.Second, "[mine theirs]", "[]")
	at("after nearly ten TTLs", 9*stageTTL-3*time.Second, "[mine theirs]", "[]")
	at("after ten", 4*time.Second, "[mine theirs]", "[mine]")
	at("after eleven", stageTTL, "[mine theirs]", "[mine theirs]")
}

// A POP that starts must not route nowhere because every heartbeat is old.
func TestLapseAtTheStart(t *testing.T) {
	for what, restart := range map[string]func(*stage){
		"a start":             func(s *stage) { s.lapse = lapse{self: "us"} },
		"a pause":             func(s *stage) { s.now, s.steady = s.now.Add(time.Hour), s.steady.Add(time.Hour) },
		"a suspended machine": func(s *stage) { s.now = s.now.Add(time.Hour) },
		"a clock set back":    func(s *stage) { s.now = s.now.Add(-time.Hour) },
		"time not known":      func(s *stage) { s.untimed = true; s.pass(time.Minute); s.untimed = false },
	} {
		s := newStage()
		s.expected["eu"] = true
		s.registered("old", "us", time.Hour)
		s.registered("recent", "us", 2*stageTTL)
		s.registered("theirs", "eu", time.Hour)
		s.registered("orphaned", "gone", time.Hour)
		s.pass(0)
		s.pass(stageTTL + time.Second) // all but theirs are out
		if expired, _ := s.pass(0); expired != "[old orphaned recent]" {
			t.Fatalf("before: %s", expired)
		}
		restart(s)
		expired, gone := s.pass(0)
		expect(t, "just after "+what, expired, gone, "[]", "[]")
		expired, gone = s.pass(stageTTL - time.Second)
		expect(t, "a TTL after "+what, expired, gone, "[]", "[]")
		if expired, _ = s.pass(2 * time.Second); expired != "[old orphaned recent]" {
			t.Errorf("more than a TTL after %s: expired %s", what, expired)
		}
	}
}

// A POP that dies or is cut off makes nobody expire, for as long as it is
// expected back; and what was silent before that stays out.
func TestLapseOfAPOPOutOfReach(t *testing.T) {
	s := newStage()
	s.expected["eu"] = true
	s.registered("fresh", "eu", 5*time.Second)
	s.pass(stageTTL+time.Second, "eu")
	s.registered("fresh", "eu", 5*time.Second)
	s.registered("silent", "eu", stageTTL+2*time.Second)
	expired, gone := s.pass(time.Second, "eu")
	expect(t, "while it is heard", expired, gone, "[silent]", "[]")
	expired, gone = s.pass(20 * stageTTL)
	expect(t, "after twenty TTLs out of reach", expired, gone, "[silent]", "[]")

	expired, gone = s.pass(2*time.Second, "eu")
	expect(t, "heard again, its records not here yet", expired, gone, "[silent]", "[]")
	s.rows["fresh"].Heartbeat = s.now // its records came
	expired, gone = s.pass(3*time.Second, "eu")
	expect(t, "heard again", expired, gone, "[silent]", "[]")
	expired, gone = s.pass(stageTTL-4*time.Second, "eu")
	expect(t, "nearly a TTL after it is heard again", expired, gone, "[silent]", "[]")
	s.rows["fresh"].Heartbeat = s.now
	expired, gone = s.pass(4*time.Second, "eu")
	expect(t, "after a TTL", expired, gone, "[silent]", "[]")
	expired, gone = s.pass(10*stageTTL+2*time.Second, "eu")
	expect(t, "after ten more", expired, gone, "[fresh silent]", "[silent]")

	// The same where it was out of reach when this POP began.
	s = newStage()
	s.expected["eu"] = true
	s.registered("fresh", "eu", 5*time.Second)
	s.pass(20 * stageTTL)
	expired, gone = s.pass(stageTTL-time.Second, "eu")
	expect(t, "heard for the first time", expired, gone, "[]", "[]")
	expired, gone = s.pass(2*time.Second, "eu")
	expect(t, "and after a TTL", expired, gone, "[fresh]", "[]")

	// A short time away is no new beginning, and does not hide a long one.
	s = newStage()
	s.expected["eu"] = true
	s.registered("fresh", "eu", 0)
	s.pass(stageTTL-12*time.Second, "eu")
	s.pass(10 * time.Second)
	expired, gone = s.pass(4*time.Second, "eu")
	expect(t, "after a short time away", expired, gone, "[fresh]", "[]")
	s.rows["fresh"].Heartbeat = s.now
	s.pass(time.Second, "eu")
	s.pass(2 * stageTTL)
	s.pass(5*time.Second, "eu")
	s.pass(10 * time.Second)
	expired, gone = s.pass(4*time.Second, "eu")
	expect(t, "after a long one, and a short one", expired, gone, "[]", "[]")

	s = newStage()
	s.expected["eu"] = true
	s.registered("fresh", "eu", 0)
	s.pass(time.Second, "eu")
	s.pass(2 * stageTTL)
	delete(s.expected, "eu")
	expired, gone = s.pass(0)
	expect(t, "it is not expected back any more", expired, gone, "[fresh]", "[]")
	expired, gone = s.pass(11 * stageTTL)
	expect(t, "and after eleven TTLs", expired, gone, "[fresh]", "[fresh]")
}

// In a mesh of very many POPs each is heard seldom.
func TestLapseOfAPOPHeardSeldom(t *testing.T) {
	for _, every := range []time.Duration{2 * time.Second, 4 * time.Second, 5 * time.Second, 8 * time.Second} {
		s := newStage()
		s.expected["eu"] = true
		s.registered("a", "eu", 0)
		for range 3 * stageTTL / every {
			s.pass(250*time.Millisecond, "eu")
			s.pass(every - 250*time.Millisecond)
		}
		s.pass(250*time.Millisecond, "eu")
		if expired, _ := s.pass(3500 * time.Millisecond); expired != "[a]" {
			t.Errorf("heard each %s: expired %s after three TTLs", every, expired)
		}
	}
}

// A heartbeat from the future, as of a clock that was wrong, keeps nobody for ever.
func TestLapseOfTheFuture(t *testing.T) {
	s := newStage()
	s.registered("a", "us", -100*time.Hour)
	expired, gone := s.pass(stageTTL - time.Second)
	expect(t, "within a TTL", expired, gone, "[]", "[]")
	expired, gone = s.pass(2 * time.Second)
	expect(t, "after it", expired, gone, "[a]", "[]")
	s.registered("a", "us", -200*time.Hour) // another one
	expired, gone = s.pass(time.Second)
	expect(t, "after another one", expired, gone, "[]", "[]")
}

// So does none that this POP heard itself, before its clock was set back.
func TestLapseOfAClockSetBack(t *testing.T) {
	s := newStage()
	s.registered("a", "us", 0)
	s.pass(time.Second)
	s.beats["a"] = s.now
	s.now = s.now.Add(-time.Hour)
	expired, gone := s.pass(stageTTL - time.Second)
	expect(t, "within a TTL", expired, gone, "[]", "[]")
	expired, gone = s.pass(2 * time.Second)
	expect(t, "after it", expired, gone, "[a]", "[]")
}

// A POP that cannot store what the others write takes nobody out by what it has
// missed, and deletes nothing; nor has it anybody back who was out.
func TestLapseOfWhoCannotStore(t *testing.T) {
	s := newStage()
	s.expected["eu"] = true
	s.registered("mine", "us", 0)
	s.registered("theirs", "eu", 0)
	s.registered("silent", "us", 2*stageTTL)
	s.registered("back", "us", 2*stageTTL)
	s.pass(stageTTL+time.Second, "eu")
	s.rows["mine"].Heartbeat, s.rows["theirs"].Heartbeat = s.now, s.now
	s.pass(time.Second, "eu")
	s.deaf = true
	expired, gone := s.pass(20*stageTTL, "eu")
	expect(t, "after twenty TTLs", expired, gone, "[back silent]", "[]")
	s.beats["back"] = s.now
	expired, gone = s.pass(time.Second, "eu")
	expect(t, "one is heard here", expired, gone, "[silent]", "[]")
	s.deaf = false
	expired, gone = s.pass(stageTTL-2*time.Second, "eu")
	expect(t, "it can again, and has not all yet", expired, gone, "[silent]", "[]")
	s.rows["theirs"].Heartbeat = s.now
	expired, gone = s.pass(4*time.Second, "eu")
	expect(t, "it has", expired, gone, "[back mine silent]", "[]")
	expired, gone = s.pass(9*stageTTL, "eu")
	expect(t, "after ten TTLs", expired, gone, "[back mine silent theirs]", "[back mine silent]")
}

// A disk that takes long to store what the others write makes nobody expire.
func TestLapseOfASlowDisk(t *testing.T) {
	s := newStage()
	s.registered("mine", "us", 0)
	s.pass(stageTTL - 5*time.Second)
	for range 4 * 20 { // a heartbeat came to another POP, and is being stored
		s.lag += 500 * time.Millisecond // twice as long
		if expired, _ := s.pass(250 * time.Millisecond); expired != "[]" {
			t.Fatalf("it lags by %s: expired %s", s.lag, expired)
		}
	}
	s.rows["mine"].Heartbeat, s.lag = s.now.Add(-20*time.Second), 0
	expired, gone := s.pass(9 * time.Second)
	expect(t, "it is stored", expired, gone, "[]", "[]")
	expired, gone = s.pass(2 * time.Second)
	expect(t, "and the last one", expired, gone, "[mine]", "[]")
}

// Once seen, it stays of when that was, also when the time has come that it names.
func TestLapseOfTheFutureThatComes(t *testing.T) {
	s := newStage()
	s.registered("a", "us", -5*stageTTL/2)
	for waited := time.Second; waited < 5*stageTTL; waited += time.Second {
		want := "[]"
		if waited > stageTTL+time.Second {
			want = "[a]"
		}
		if expired, _ := s.pass(time.Second); waited != stageTTL+time.Second && expired != want {
			t.Fatalf("after %s expired is %s, want %s", waited, expired, want)
		}
	}
}

// A POP that is cut off deletes nothing: agents may have gone over to POPs that
// it does not reach. It may take backends out of its own routing.
func TestLapseOfWhoIsCutOff(t *testing.T) {
	s := newStage()
	s.expected["eu"], s.expected["ap"] = true, true
	s.registered("mine", "us", 0)
	s.registered("orphaned", "gone", 0)
	s.pass(time.Second, "eu", "ap")
	expired, gone := s.pass(20*stageTTL, "eu")
	expect(t, "while one is out of reach", expired, gone, "[mine orphaned]", "[]")
	expired, gone = s.pass(stageTTL, "eu", "ap")
	expect(t, "all are in reach again, their records may be on their way", expired, gone, "[mine orphaned]", "[]")
	expired, gone = s.pass(time.Second, "eu", "ap")
	expect(t, "and have been for a TTL", expired, gone, "[mine orphaned]", "[mine orphaned]")
	s.rows["mine"].POP, s.rows["mine"].Heartbeat = "eu", s.now
	expired, gone = s.pass(time.Second, "eu", "ap")
	expect(t, "another POP took a heartbeat", expired, gone, "[orphaned]", "[orphaned]")
	s.pass(30*time.Second, "eu")
	delete(s.expected, "ap")
	expired, gone = s.pass(stageTTL+time.Second, "eu")
	expect(t, "the one out of reach is not expected any more", expired, gone, "[mine orphaned]", "[orphaned]")
}

// Backends that are left out as loops expire as others do, and are deleted.
func TestLapseOfLoops(t *testing.T) {
	s := newStage()
	reg := &mesh.Registration{POP: "us", Heartbeat: s.now, TTL: stageTTL}
	l := lapse{self: "us"}
	for _, age := range []time.Duration{0, 2 * stageTTL, 11 * stageTTL} {
		at := s.now.Add(age)
		snap := &mesh.Snapshot{Left: []mesh.Backend{{ID: "loop", Registration: reg}}}
		l.at, l.steady = at, at // as after looks in between
		out, rows := l.look(sight{now: at, steady: at, whole: true, expected: func(string) bool { return false }, heard: func(string) (time.Time, bool) { return time.Time{}, false }, beat: func(string) time.Time { return time.Time{} }}, snap)
		if out["loop"] != (age > stageTTL) || (len(rows) > 0) != (age > goneAfter*stageTTL) {
			t.Errorf("after %s: expired %v, to be deleted %v", age, out, rows)
		}
	}
}
