package simulation

import (
	"context"
	"maps"
	"sync"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip"
)

// tooFar is how far ahead of mesh time a stamp may be that is merged, as in
// crdt/sqlite.
const tooFar = 500 // ms

// disk is a POP's records: a crdt.Replica as a gossip.Store. As in crdt/sqlite
// what is stamped too far ahead waits in quarantine, and a clock that was ahead
// is set back: for that the stamps of writes are made here.
type disk struct {
	mu      sync.Mutex
	self    crdt.Origin
	seq     uint64
	clock   crdt.Clock
	replica *crdt.Replica
	held    map[crdt.Key]crdt.Record
	now     func() int64 // mesh time, ms
}

var _ gossip.Store = (*disk)(nil)

func newDisk(name string) *disk {
	self := crdt.Origin{Node: name, Epoch: 1}
	return &disk{self: self, replica: crdt.NewReplica(self), held: map[crdt.Key]crdt.Record{}}
}

func (d *disk) limit() crdt.Time { return crdt.At(d.now() + tooFar) }

// write sets a column of a row and returns what is to be sent.
func (d *disk) write(key crdt.Key, column string, v crdt.Value) crdt.Delta {
	now, limit := d.now(), d.limit() // ask the Mesh: not under the lock
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.clock.Last > limit {
		d.clock.Last = crdt.At(now)
	}
	d.seq++
	stamp := crdt.Stamp{Origin: d.self, Seq: d.seq}
	row, _ := d.replica.Get(key)
	if latest := row.Latest(); latest > limit {
		stamp.Time = latest + 1
	} else {
		stamp.Time = d.clock.Next(crdt.At(now), latest)
	}
	change := crdt.Record{Key: key, Cells: []crdt.Cell{{Column: column, Value: v, Stamp: stamp}}}
	ranges := []crdt.Range{{Origin: d.self, From: d.seq - 1, To: d.seq}}
	d.replica.Apply(crdt.Delta{Ranges: ranges, Records: []crdt.Record{change}})
	row, _ = d.replica.Get(key)
	return crdt.Delta{Ranges: ranges, Records: []crdt.Record{row}}
}

func (d *disk) Heads(context.Context) (crdt.Heads, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.replica.Heads(), nil
}

func (d *disk) Horizon(context.Context) (crdt.Heads, error) { return crdt.Heads{}, nil }

// Since hands on what is held too: it may be in time elsewhere.
func (d *disk) Since(_ context.Context, have crdt.Heads, limit int) (crdt.Delta, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	part, more := d.replica.Since(have, limit)
	for _, rec := range d.held {
		rec.Owners(func(s crdt.Stamp) bool {
			if !have.Covered(s) {
				part.Records = append(part.Records, rec)
				return false
			}
			return true
		})
	}
	return part, more, nil
}

func (d *disk) Apply(_ context.Context, _ string, delta crdt.Delta) (crdt.Applied, error) {
	limit := d.limit() // asks the Mesh: not under the lock
	d.mu.Lock()
	defer d.mu.Unlock()
	now := crdt.Delta{Ranges: delta.Ranges}
	held := 0
	for _, rec := range delta.Records {
		in, ahead := split(rec, limit)
		if in.Key != (crdt.Key{}) {
			now.Records = append(now.Records, in)
			d.clock.Observe(in.Latest())
		}
		if ahead.Key != (crdt.Key{}) {
			if have, ok := d.held[ahead.Key]; ok {
				ahead = crdt.Merge(have, ahead)
			}
			d.held[ahead.Key] = ahead
			held++
		}
	}
	a := d.replica.Apply(now)
	a.Held = held
	return a, nil
}

// release merges what is not too far ahead any more.
func (d *disk) release() {
	limit := d.limit()
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, rec := range maps.Clone(d.held) {
		in, ahead := split(rec, limit)
		if in.Key == (crdt.Key{}) {
			continue
		}
		delete(d.held, key)
		if ahead.Key != (crdt.Key{}) {
			d.held[key] = ahead
		}
		d.replica.Apply(crdt.Delta{Records: []crdt.Record{in}})
	}
}

// split takes apart what is stamped up to the limit and what later.
func split(rec crdt.Record, limit crdt.Time) (now, ahead crdt.Record) {
	part := func(s crdt.Stamp) *crdt.Record {
		to := &now
		if s.Time > limit {
			to = &ahead
		}
		to.Key = rec.Key
		return to
	}
	for _, c := range rec.Cells {
		to := part(c.Stamp)
		to.Cells = append(to.Cells, c)
	}
	if !rec.Dead.IsZero() {
		part(rec.Dead).Dead = rec.Dead
	}
	return now, ahead
}

func (d *disk) States(context.Context, crdt.Heads) ([]crdt.Sum, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.replica.States(), nil
}

func (d *disk) Bucket(_ context.Context, buckets []int) (rows []crdt.Record, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	want := map[int]bool{}
	for _, b := range buckets {
		want[b] = true
	}
	for _, rec := range d.replica.Records() {
		if want[rec.Bucket()] {
			rows = append(rows, rec)
		}
	}
	return rows, nil
}

// Purge has nothing to do: no delete is ever forgotten here.
func (d *disk) Purge(context.Context, crdt.Heads, func(crdt.Key) bool) (int, error) { return 0, nil }

func (d *disk) get(key crdt.Key) (crdt.Record, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.replica.Get(key)
}

// content is the heads, the sum over all rows with their stamps, how many rows
// there are, and how many wait.
func (d *disk) content() (heads crdt.Heads, sum crdt.Sum, rows, held int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, rec := range d.replica.Records() {
		sum = sum.Plus(rec.State())
		rows++
	}
	return d.replica.Heads(), sum, rows, len(d.held)
}

func (d *disk) heads() crdt.Heads {
	h, _ := d.Heads(context.Background())
	return h
}
