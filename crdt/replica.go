package crdt

import (
	"cmp"
	"maps"
	"slices"
)

// Applied is what became of a delta.
type Applied struct {
	Changed   []Record  // the rows that it changed, as they are now
	Conflicts int       // of them those where each side had a later write than the other
	Held      int       // records stamped too far ahead, which wait in quarantine
	Refused   []Refusal // what the store does not take, by name
}

// Replica is a POP's records in memory: what crdt/sqlite keeps in a file,
// for simulations and for tests of the laws. It is not safe for concurrent use.
type Replica struct {
	self  Origin
	clock Clock
	seq   uint64
	rows  map[Key]Record
	heads Heads
	owned map[Origin]map[uint64]Key // which row still has the write
}

// NewReplica is empty. No other replica may write under the same origin.
func NewReplica(self Origin) *Replica {
	return &Replica{self: self, rows: map[Key]Record{}, heads: Heads{}, owned: map[Origin]map[uint64]Key{}}
}

// Write sets columns of a row, at the wall clock's now, and returns what is to
// be sent for it.
func (p *Replica) Write(key Key, now Time, columns map[string]Value) Delta {
	stamp := p.stamp(key, now)
	change := Record{Key: key}
	for _, name := range slices.Sorted(maps.Keys(columns)) {
		change.Cells = append(change.Cells, Cell{Column: name, Value: columns[name], Stamp: stamp})
	}
	return p.sealed(change, stamp)
}

// Delete deletes a row. Deleting one that is not there says so too: the row
// may be on its way.
func (p *Replica) Delete(key Key, now Time) Delta {
	stamp := p.stamp(key, now)
	return p.sealed(Record{Key: key, Dead: stamp}, stamp)
}

func (p *Replica) stamp(key Key, now Time) Stamp {
	p.seq++
	return Stamp{Time: p.clock.Next(now, p.rows[key].Latest()), Origin: p.self, Seq: p.seq}
}

func (p *Replica) sealed(change Record, stamp Stamp) Delta {
	p.merge(change)
	d := Delta{Ranges: []Range{{Origin: p.self, From: stamp.Seq - 1, To: stamp.Seq}}, Records: []Record{p.rows[change.Key]}}
	p.heads.Cover(d.Ranges[0])
	return d
}

// merge says whether the record changed the row.
func (p *Replica) merge(rec Record) bool {
	old, known := p.rows[rec.Key]
	merged := rec
	if known {
		if merged = Merge(old, rec); merged.Equal(old) {
			return false
		}
		old.Owners(func(s Stamp) bool {
			delete(p.owned[s.Origin], s.Seq)
			return true
		})
	}
	p.rows[rec.Key] = merged
	p.clock.Observe(merged.Latest())
	merged.Owners(func(s Stamp) bool {
		if p.owned[s.Origin] == nil {
			p.owned[s.Origin] = map[uint64]Key{}
		}
		p.owned[s.Origin][s.Seq] = rec.Key
		return true
	})
	return true
}

// Apply merges what another replica sent.
func (p *Replica) Apply(d Delta) (a Applied) {
	for _, rec := range d.Records {
		if p.merge(rec) {
			a.Changed = append(a.Changed, p.rows[rec.Key])
			if !p.rows[rec.Key].Equal(rec) {
				a.Conflicts++
			}
		}
	}
	for _, g := range d.Ranges {
		p.heads.Cover(g)
	}
	return a
}

// Since is the next part of what a replica with these heads lacks, about limit
// bytes of it, and whether there is more once it has that. Of every origin it
// goes upwards, so that each part moves a head.
func (p *Replica) Since(have Heads, limit int) (d Delta, more bool) {
	sent := map[Key]bool{}
	size := 0
	for _, lack := range have.Missing(p.heads) {
		if size >= limit {
			return d, true
		}
		var numbers []uint64
		for n := range p.owned[lack.Origin] {
			if n > lack.From && n <= lack.To { // what came early, beyond a hole, is in no range of ours
				numbers = append(numbers, n)
			}
		}
		slices.SortFunc(numbers, cmp.Compare)
		for i, n := range numbers {
			if key := p.owned[lack.Origin][n]; !sent[key] {
				sent[key] = true
				size += p.rows[key].Size()
				d.Records = append(d.Records, p.rows[key])
			}
			if size >= limit && i < len(numbers)-1 {
				lack.To, more = n, true
				break
			}
		}
		d.Ranges = append(d.Ranges, lack)
	}
	return d, more
}

// Heads is what the replica knows of each origin, as a copy.
func (p *Replica) Heads() Heads { return p.heads.Clone() }

// Get returns a row's record, also a deleted one's.
func (p *Replica) Get(key Key) (Record, bool) {
	rec, ok := p.rows[key]
	return rec, ok
}

// Records are all rows, also the deleted ones, in the order of their keys.
func (p *Replica) Records() []Record {
	all := slices.Collect(maps.Values(p.rows))
	slices.SortFunc(all, func(a, b Record) int { return a.Key.Compare(b.Key) })
	return all
}

// Digest is the sum over the values of all live rows.
func (p *Replica) Digest() (sum Sum) {
	for _, rec := range p.rows {
		sum = sum.Plus(rec.Values())
	}
	return sum
}

// States is the sum of the records' whole state, per bucket.
func (p *Replica) States() []Sum {
	sums := make([]Sum, Buckets)
	for key, rec := range p.rows {
		b := key.Bucket()
		sums[b] = sums[b].Plus(rec.State())
	}
	return sums
}
