package sqlite

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"testing"

	"github.com/edgeproxy/edgeproxy/crdt"
	"pgregory.net/rapid"
)

// TestClaims: POPs whose clocks are wrong, are set and are mended, whose idea of
// mesh time is off, which begin alone, restart, and come back with older files,
// write, send and pull at random, over lines that are cut. Whatever happens, who
// claims by its heads to have a write has it or what is later, in its row or in
// the quarantine; so equal heads mean equal rows. Once the clocks are well all
// agree, and nothing waits.
func TestClaims(t *testing.T) {
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		if n++; testing.Short() && n > 8 || n > 40 { // each opens three files
			return
		}
		s := newClaimants(t, r)
		for range rapid.IntRange(1, 40).Draw(r, "steps") {
			s.step()
			s.check()
		}
		s.heal()
	})
}

// claimants are the POPs, and every write that any of them ever had.
type claimants struct {
	t    *testing.T
	r    *rapid.T
	now  int64 // true time
	pops []*claimant
	ever map[crdt.Key][]crdt.Record
	old  bool // a file was replaced by an older one
}

// claimant is a POP with a clock of its own.
type claimant struct {
	*pop
	off   int64 // its clock is so far ahead
	wrong int64 // what it takes for mesh time is
	heard bool  // another POP's clock, in this life
	met   bool  // another POP, ever
	wires map[*claimant][]crdt.Delta
	copy  string // of its file, once one was made
}

func newClaimants(t *testing.T, r *rapid.T) *claimants {
	s := &claimants{t: t, r: r, now: 1_700_000_000_000, ever: map[crdt.Key][]crdt.Record{}}
	for _, node := range []string{"sa", "us", "eu"} {
		c := &claimant{wires: map[*claimant][]crdt.Delta{}}
		c.pop = &pop{Store: openStore(t, filepath.Join(t.TempDir(), node)), t: t, life: Life{Node: node}}
		c.pop.now = func() int64 {
			if c.heard {
				return s.now + c.wrong
			}
			return s.now + c.off
		}
		c.pop.heard = func() bool { return c.heard }
		c.untimed = func() bool { return c.met && !c.heard }
		c.begin()
		s.pops = append(s.pops, c)
	}
	return s
}

var offs = []int64{0, 0, 0, 200, -200, 2000, -2000, hour, -hour, year2262 - 1_700_000_000_000}

func (s *claimants) step() {
	s.now += int64(rapid.SampledFrom([]int{0, 1, 100, 1000}).Draw(s.r, "tick"))
	c := s.pops[rapid.IntRange(0, 2).Draw(s.r, "at")]
	other := s.pops[rapid.IntRange(0, 2).Draw(s.r, "other")]
	id := rapid.SampledFrom([]string{"a", "b"}).Draw(s.r, "row")
	switch rapid.IntRange(0, 15).Draw(s.r, "what") {
	case 0:
		raw(s.t, c.path, "DELETE FROM backends WHERE id = '"+id+"'")
	case 1, 2, 3:
		column, value := rapid.SampledFrom([]string{"port", "weight"}).Draw(s.r, "column"), rapid.IntRange(1, 99).Draw(s.r, "value")
		raw(s.t, c.path, fmt.Sprintf("INSERT INTO backends (id, %s) VALUES ('%s', %d) ON CONFLICT DO UPDATE SET %s = excluded.%s", column, id, value, column, column))
	case 4, 5, 6:
		s.fold(c)
	case 7, 8:
		s.pull(c, other, rapid.SampledFrom([]int{1, 1 << 20}).Draw(s.r, "limit"))
	case 9:
		s.deliver(other, c)
	case 10:
		c.off = rapid.SampledFrom(offs).Draw(s.r, "clock")
	case 11:
		c.wrong = rapid.SampledFrom(offs[:7]).Draw(s.r, "mesh time")
	case 12:
		s.restart(c)
	case 13:
		if !c.untimed() { // as package node does
			must(c.Release(s.t.Context()))
		}
	case 14:
		s.copyOrRestore(c, other)
	case 15:
		if !c.untimed() {
			if f := c.pop.check(); len(f.Restored)+len(f.Damaged)+len(f.Unshown)+f.Edited > 0 {
				s.r.Fatalf("%s: %+v", c.life.Node, f)
			}
		}
	}
}

// fold seals what was written, and sends it to those that were met in this life.
func (s *claimants) fold(c *claimant) {
	d, err := c.Fold(s.t.Context())
	if err != nil && !c.untimed() {
		s.r.Fatal(err)
	}
	for to := range c.wires {
		if !d.Alone && len(d.Ranges) > 0 {
			c.wires[to] = append(c.wires[to], d)
		}
	}
}

// pull is the whole answer to the question for what is missing. After a part of
// it what overwrote a claimed write may be in the rest, which is still lacked.
func (s *claimants) pull(c, from *claimant, limit int) {
	if c == from {
		return
	}
	for _, pair := range [][2]*claimant{{c, from}, {from, c}} {
		pair[0].heard, pair[0].met = true, true
		pair[0].wires[pair[1]] = append(pair[0].wires[pair[1]], crdt.Delta{})
	}
	for more := true; more; {
		d, m, err := from.Since(s.t.Context(), must(c.Heads(s.t.Context())), limit)
		if err != nil {
			s.r.Fatal(err)
		}
		more = m
		must(c.Apply(s.t.Context(), from.life.Node, d))
	}
}

// deliver is what comes next over a line, in its order.
func (s *claimants) deliver(from, to *claimant) {
	if wire := from.wires[to]; len(wire) > 0 {
		from.wires[to] = wire[1:]
		must(to.Apply(s.t.Context(), from.life.Node, wire[0]))
	}
}

// restart ends a life, cleanly or not, and what was on its lines is lost.
func (s *claimants) restart(c *claimant) {
	if rapid.Bool().Draw(s.r, "clean") {
		if err := c.End(s.t.Context()); err != nil {
			s.r.Fatal(err)
		}
	}
	s.begin(c, func() { c.pop.begin() })
}

func (s *claimants) begin(c *claimant, how func()) {
	c.heard = false
	for _, x := range s.pops {
		delete(c.wires, x)
		delete(x.wires, c)
	}
	how()
}

// copyOrRestore makes a copy of a file, which later takes its place, or another's.
func (s *claimants) copyOrRestore(c, other *claimant) {
	if c.copy == "" {
		c.copy = filepath.Join(s.t.TempDir(), "copy")
		if err := c.Backup(s.t.Context(), c.copy); err != nil {
			s.r.Fatal(err)
		}
		return
	}
	s.begin(other, func() { other.restore(c.copy) })
	c.copy, s.old = "", true
}

// has is all that a POP has: its rows, each merged with what waits for it.
func (s *claimants) has(c *claimant) map[crdt.Key]crdt.Record {
	all := c.all()
	err := c.replicating(s.t.Context(), func(p *replica) error {
		held, err := p.readHeld(context.Background(), c.writer, "")
		for _, h := range held {
			if rec, there := all[h.rec.Key]; there {
				h.rec = crdt.Merge(rec, h.rec)
			}
			all[h.rec.Key] = h.rec
		}
		return err
	})
	if err != nil {
		s.r.Fatal(err)
	}
	return all
}

// check looks at every claim.
func (s *claimants) check() {
	have := make([]map[crdt.Key]crdt.Record, len(s.pops))
	for i, c := range s.pops {
		have[i] = s.has(c)
		for key, rec := range have[i] {
			if list := s.ever[key]; len(list) == 0 || !list[len(list)-1].Equal(rec) {
				s.ever[key] = append(list, rec)
			}
		}
	}
	for i, c := range s.pops {
		heads := must(c.Heads(s.t.Context()))
		for key, list := range s.ever {
			for _, rec := range list {
				has := have[i][key]
				has.Key = key
				if want := claimed(rec, heads); !crdt.Merge(has, want).Equal(has) {
					s.r.Fatalf("%s claims %v\nand of %v it lacks some of %+v\n%+v, it has %+v\n%+v", c.life.Node, heads, key, want.Cells, want.Dead, has.Cells, has.Dead)
				}
			}
		}
	}
}

// heal has all clocks right and exchanges everything. What came early, of a
// write that its own origin lost with its file, only a comparison brings.
func (s *claimants) heal() {
	s.now += 2 * hour
	for _, c := range s.pops {
		c.off, c.wrong = 0, 0
	}
	for range 3 {
		for _, c := range s.pops {
			for _, from := range s.pops {
				for range 3 {
					s.fold(c)
				}
				s.pull(c, from, 1<<20)
			}
		}
		s.check()
	}
	if s.old {
		s.compare()
	}
	for _, c := range s.pops {
		must(c.Release(s.t.Context()))
	}
	for _, c := range s.pops {
		sameHeads(s.t, s.pops[0].pop, c.pop)
		if n := c.digest().Quarantined; n == 0 {
			agree(s.t, s.pops[0].pop, c.pop)
		} else if !s.old { // in an old file of another's that may be
			s.r.Fatalf("%d rows wait at %s", n, c.life.Node)
		}
		if a, b := s.has(s.pops[0]), s.has(c); !maps.EqualFunc(a, b, crdt.Record.Equal) {
			s.r.Fatalf("equal heads, and %s has %v\n%s has %v", s.pops[0].life.Node, a, c.life.Node, b)
		}
	}
}

func (s *claimants) compare() {
	for range 2 {
		for _, c := range s.pops {
			for _, from := range s.pops {
				var d crdt.Delta
				for _, rec := range s.has(from) {
					d.Records = append(d.Records, rec)
				}
				must(c.Apply(s.t.Context(), from.life.Node, d))
			}
		}
	}
}

// claimed is the part of a record that is under the heads.
func claimed(rec crdt.Record, heads crdt.Heads) crdt.Record {
	now := crdt.Record{Key: rec.Key}
	for _, c := range rec.Cells {
		if heads.Covered(c.Stamp) {
			now.Cells = append(now.Cells, c)
		}
	}
	if heads.Covered(rec.Dead) {
		now.Dead = rec.Dead
	}
	return now
}
