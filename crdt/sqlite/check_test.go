package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// silently changes the file as an accident would, with the triggers in place.
func silently(t *testing.T, p *pop, statement string) {
	t.Helper()
	raw(t, p.path, "BEGIN", "UPDATE crdt_control SET applying = 1", statement, "UPDATE crdt_control SET applying = 0", "COMMIT")
}

// TestDamage is set right from the record, and a damaged record from a peer.
func TestDamage(t *testing.T) {
	p, q := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	put(t, p.Store, "a", "b", "c", "d", "e")
	p.fold()
	raw(t, p.path, "DELETE FROM backends WHERE id = 'd'")
	p.fold()
	q.pull(p, 1000)
	silently(t, p, "UPDATE backends SET port = 1 WHERE id = 'a'")
	silently(t, p, "DELETE FROM backends WHERE id = 'b'")
	silently(t, p, "INSERT INTO backends (id, port) VALUES ('d', 1)")
	f := p.check()
	if want := []crdt.Key{backend("a"), backend("b"), backend("d")}; len(f.Restored) != 3 || !contain(f.Restored, want) || f.Edited != 0 {
		t.Errorf("%+v", f)
	}
	agree(t, p, q)
	if len(p.fold()) != 0 {
		t.Error("damage was sealed")
	}
	raw(t, p.path, fmt.Sprintf("UPDATE crdt_rows SET rec = CAST(substr(rec, 1, 20) || x'ff' || substr(rec, 22) AS BLOB) WHERE pk = x'%x'", backend("c").PK))
	if f := p.check(); !slices.Equal(f.Damaged, []crdt.Key{backend("c")}) || f.Edited != 0 || len(f.Restored) != 0 {
		t.Errorf("%+v", f)
	}
	wantIDs(t, p.Store, "a", "b", "c", "e")
	recs := must(q.Bucket(t.Context(), []int{backend("c").Bucket()}))
	if got := must(p.Apply(t.Context(), "us", crdt.Delta{Records: recs, Repair: true})); len(got.Changed) != 1 {
		t.Errorf("%+v", got)
	}
	agree(t, p, q)
	if f := p.check(); len(f.Damaged)+len(f.Restored) > 0 {
		t.Errorf("%+v", f)
	}
}

func contain(all, want []crdt.Key) bool {
	for _, k := range want {
		if !slices.Contains(all, k) {
			return false
		}
	}
	return true
}

// TestQuarantine: a stamp too far ahead waits, carries no clock along and
// keeps nobody from writing its row.
func TestQuarantine(t *testing.T) {
	ahead, p, q := newPop(t, newPath(t), "wild"), newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	now := int64(1_800_000_000_000)
	p.now, q.now = func() int64 { return now }, func() int64 { return now }
	ahead.now = func() int64 { return now + 60_000 }
	put(t, p.Store, "x")
	p.fold()
	ahead.pull(p, 1000)
	raw(t, ahead.path, "UPDATE backends SET weight = 9, port = 9 WHERE id = 'x'", "INSERT INTO backends (id) VALUES ('y')", "UPDATE crdt_inbox SET at = julianday('now') + 1")
	ahead.fold()
	if got := p.pull(ahead, 1000); got.Held != 2 || len(got.Changed) != 0 {
		t.Errorf("%+v", got)
	}
	if d := p.digest(); d.Quarantined != 2 || d.Rows != 1 {
		t.Errorf("%+v", d)
	}
	list := must(p.Quarantine(t.Context()))
	if len(list) != 2 || list[0].Key != backend("x") || list[0].From != "wild" || list[0].Ahead < 59*time.Second || list[0].Ahead > 61*time.Second {
		t.Errorf("%+v", list)
	}
	raw(t, p.path, "UPDATE backends SET weight = 1 WHERE id = 'x'")
	if recs := p.fold(); len(recs) != 1 || recs[0].Latest().Milli() > now+1 {
		t.Errorf("the clock was carried along: %v", recs)
	}
	// It is passed on, and waits there too.
	if got := q.pull(p, 1000); got.Held != 2 {
		t.Errorf("%+v", got)
	}
	if !must(q.Heads(t.Context())).Covers(must(ahead.Heads(t.Context()))) {
		t.Error("the heads did not move")
	}
	agree(t, p, q)
	must(p.Release(t.Context()))
	if p.digest().Quarantined != 2 {
		t.Error("released too early")
	}
	for _, s := range []*pop{p, q} {
		s.restart(t, true, func() {})
		if n, err := s.Drop(t.Context(), []crdt.Key{backend("none")}); n != 0 || err != nil {
			t.Error(n, err)
		}
	}
	now += 59_800
	for _, s := range []*pop{p, q, ahead} {
		s.pull(p, 1000)
		must(s.Release(t.Context()))
		if d := s.digest(); d.Quarantined != 0 || d.Rows != 2 {
			t.Errorf("%s: %+v", s.life.Node, d)
		}
	}
	agree(t, p, q)
	agree(t, p, ahead)
	if got := cell(t, p.path, "SELECT weight || ' ' || port FROM backends WHERE id = 'x'"); got != "9 9" {
		t.Errorf("weight, port: %s", got)
	}
}

func TestReleaseNowAndDrop(t *testing.T) {
	ahead, p := newPop(t, newPath(t), "wild"), newPop(t, newPath(t), "sa")
	ahead.now = func() int64 { return wall() + 3_600_000 }
	put(t, ahead.Store, "x", "y", "z")
	ahead.fold()
	p.pull(ahead, 100)
	if n, err := p.Drop(t.Context(), []crdt.Key{backend("y")}); n != 1 || err != nil {
		t.Error(n, err)
	}
	if a := must(p.ReleaseNow(t.Context(), []crdt.Key{backend("x")})); len(a.Changed) != 1 {
		t.Errorf("%+v", a)
	}
	wantIDs(t, p.Store, "x")
	if p.digest().Quarantined != 1 {
		t.Errorf("%+v", p.digest())
	}
	raw(t, p.path, "UPDATE backends SET port = 1")
	put(t, p.Store, "mine")
	p.fold()
	if got := p.record("mine").Latest().Milli(); got > wall()+tooFar {
		t.Error("the clock was carried along")
	}
	if rec := p.record("x"); rec.Cell("port").Value != crdt.IntValue(1) {
		t.Errorf("its own write lost: %v", rec)
	}
}

// TestCollect forgets deletes that everyone has seen, and says up to where.
func TestCollect(t *testing.T) {
	p, q := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	put(t, p.Store, "a", "b", "c")
	p.fold()
	q.pull(p, 1000)
	raw(t, p.path, "DELETE FROM backends WHERE id = 'a'")
	p.fold()
	confirmed := must(q.Heads(t.Context()))
	if n := must(p.Collect(t.Context(), confirmed)); n != 0 {
		t.Errorf("collected %d that were not confirmed", n)
	}
	q.pull(p, 1000)
	if n := must(p.Collect(t.Context(), must(q.Heads(t.Context())))); n != 1 {
		t.Errorf("collected %d", n)
	}
	horizon := must(p.Horizon(t.Context()))
	if o := must(p.Origin(t.Context())); horizon[o] != 4 || len(horizon) != 1 {
		t.Errorf("horizon %v", horizon)
	}
	if d := p.digest(); d.Tombstones != 0 || d.Rows != 2 {
		t.Errorf("%+v", d)
	}
	// Above the horizon the two still agree.
	if x, y := must(p.States(t.Context(), horizon)), must(q.States(t.Context(), horizon)); !slices.Equal(x, y) {
		t.Error("different states")
	}
	if x, y := must(p.States(t.Context(), nil)), must(q.States(t.Context(), nil)); slices.Equal(x, y) {
		t.Error("the tombstone is in no state")
	}
}

// TestPurge forgets what a peer that knows all of it has not.
func TestPurge(t *testing.T) {
	p, q := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	put(t, p.Store, "a", "b")
	p.fold()
	q.pull(p, 1000)
	raw(t, p.path, "DELETE FROM backends WHERE id = 'a'")
	p.fold()
	o := must(p.Origin(t.Context()))
	must(p.Collect(t.Context(), crdt.Heads{o: 3}))
	put(t, q.Store, "mine")
	q.fold()
	have := p.all()
	n, err := q.Purge(t.Context(), must(p.Heads(t.Context())), func(k crdt.Key) bool { _, is := have[k]; return is })
	if n != 1 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	wantIDs(t, q.Store, "b", "mine")
	if len(q.fold()) != 0 {
		t.Error("a purge was sealed")
	}
	p.pull(q, 1000)
	q.pull(p, 1000)
	agree(t, p, q)
}

// TestDamagedIsNamed: a record that cannot be read is named to whoever takes all
// that is here, or they would take it for one that is deleted.
func TestDamagedIsNamed(t *testing.T) {
	p, q := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	put(t, p.Store, "a", "b")
	p.fold()
	q.pull(p, 1000)
	raw(t, p.path, "UPDATE crdt_rows SET rec = x'00' WHERE pk = (SELECT pk FROM crdt_rows ORDER BY pk LIMIT 1)")
	part, _, err := p.Since(t.Context(), crdt.Heads{}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	sent, refused, err := crdt.DecodeDelta(part.Append(nil))
	if err != nil || len(sent.Records) != 1 || len(refused) != 1 || refused[0].Key != backend("a") {
		t.Fatalf("%v, refused %v, %v", sent.Records, refused, err)
	}
	if got := must(q.Apply(t.Context(), "sa", part)); len(got.Refused) != 1 || len(got.Changed) != 0 {
		t.Errorf("%+v", got)
	}
	wantIDs(t, q.Store, "a", "b")
}

// TestHorizonIsTaken with the word of who has forgotten, and no further than
// that is known here.
func TestHorizonIsTaken(t *testing.T) {
	p, q := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	put(t, p.Store, "a", "b")
	p.fold()
	o := must(p.Origin(t.Context()))
	must(q.Apply(t.Context(), "sa", crdt.Delta{Ranges: []crdt.Range{{Origin: o, To: 2}}, Horizon: crdt.Heads{o: 1}}))
	must(q.Apply(t.Context(), "sa", crdt.Delta{Horizon: crdt.Heads{o: 9, {Node: "x"}: 4}}))
	q.restart(t, true, func() {})
	if h := must(q.Horizon(t.Context())); h[o] != 2 || len(h) != 1 {
		t.Errorf("horizon %v", h)
	}
}

// TestOriginsAreBounded: made-up ones must not fill what POPs tell each other
// when they meet.
func TestOriginsAreBounded(t *testing.T) {
	p := newPop(t, newPath(t), "sa")
	var d crdt.Delta
	for i := range 20_000 {
		d.Ranges = append(d.Ranges, crdt.Range{Origin: crdt.Origin{Node: fmt.Sprintf("%0100d", i), Epoch: 1}, To: 1})
	}
	must(p.Apply(t.Context(), "us", d))
	if heads := must(p.Heads(t.Context())); len(heads) < 1000 || len(heads)*100 > maxHeadBytes {
		t.Errorf("%d heads", len(heads))
	}
	before := len(must(p.Heads(t.Context())))
	must(p.Apply(t.Context(), "us", d))
	p.restart(t, true, func() {})
	must(p.Apply(t.Context(), "us", d))
	if heads := must(p.Heads(t.Context())); len(heads) != before {
		t.Errorf("%d heads, then %d", before, len(heads))
	}
	put(t, p.Store, "mine")
	p.fold()
	if heads := must(p.Heads(t.Context())); heads[must(p.Origin(t.Context()))] != 1 {
		t.Error("its own head does not move")
	}
}

func TestBackup(t *testing.T) {
	p := newPop(t, newPath(t), "sa")
	put(t, p.Store, "a")
	to := filepath.Join(t.TempDir(), "backup.db")
	if err := p.Backup(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	if got := cell(t, to, "SELECT group_concat(id) FROM backends"); got != "a" {
		t.Errorf("rows %q", got)
	}
	sound(t, to)
	if err := p.Backup(t.Context(), to); !errors.Is(err, os.ErrExist) {
		t.Errorf("over another file: %v", err)
	}
	if err := p.Backup(t.Context(), filepath.Join(t.TempDir(), "no", "b.db")); err == nil {
		t.Error("into no directory")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSaveThatFails leaves nothing sealed, and the next call tries again.
func TestSaveThatFails(t *testing.T) {
	p := newPop(t, newPath(t), "sa")
	put(t, p.Store, "a")
	full := errors.New("no space")
	p.replica.Save = func(Life) error { return full }
	if _, err := p.Fold(t.Context()); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	p.replica.Save = func(l Life) error { p.life = l; return nil }
	if got := stamped(p.fold()); got != "a "+everyColumn {
		t.Errorf("sealed %q", got)
	}
}
