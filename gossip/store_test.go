package gossip

import (
	"context"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// memStore is a crdt.Replica as a Store, with what a disk can do to it.
type memStore struct {
	mu      sync.Mutex
	self    crdt.Origin
	replica *crdt.Replica
	horizon crdt.Heads
	fail    error                // of Apply
	parts   int                  // that Since has given
	reading func(part int) error // before each, if set; may change the replica
	slow    time.Duration        // each Apply
	applies int
}

var _ Store = (*memStore)(nil)

func newMemStore(node string) *memStore {
	self := crdt.Origin{Node: node, Epoch: 1}
	return &memStore{self: self, replica: crdt.NewReplica(self), horizon: crdt.Heads{}}
}

func (s *memStore) Heads(context.Context) (crdt.Heads, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replica.Heads(), nil
}

func (s *memStore) heads() crdt.Heads {
	h, _ := s.Heads(context.Background())
	return h
}

func (s *memStore) Horizon(context.Context) (crdt.Heads, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.horizon.Clone(), nil
}

func (s *memStore) Since(_ context.Context, have crdt.Heads, limit int) (crdt.Delta, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parts++; s.reading != nil {
		if err := s.reading(s.parts); err != nil {
			return crdt.Delta{}, false, err
		}
	}
	d, more := s.replica.Since(have, limit)
	return d, more, nil
}

func (s *memStore) Apply(ctx context.Context, _ string, d crdt.Delta) (crdt.Applied, error) {
	s.mu.Lock()
	slow, fail := s.slow, s.fail
	s.mu.Unlock()
	if slow > 0 && !pause(ctx, slow) {
		return crdt.Applied{}, ctx.Err()
	}
	if fail != nil {
		return crdt.Applied{}, fail
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applies++
	s.horizon.Raise(d.Horizon)
	return s.replica.Apply(d), nil
}

func (s *memStore) States(_ context.Context, horizon crdt.Heads) ([]crdt.Sum, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sums := make([]crdt.Sum, crdt.Buckets)
	for _, rec := range s.replica.Records() {
		if b := rec.Bucket(); !forgotten(rec, horizon) {
			sums[b] = sums[b].Plus(rec.State())
		}
	}
	return sums, nil
}

func (s *memStore) Bucket(_ context.Context, buckets []int) (rows []crdt.Record, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rec := range s.replica.Records() {
		for _, b := range buckets {
			if rec.Bucket() == b {
				rows = append(rows, rec)
			}
		}
	}
	return rows, nil
}

func (s *memStore) Purge(_ context.Context, peer crdt.Heads, has func(crdt.Key) bool) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = s.rebuildLocked(func(rec crdt.Record) (crdt.Record, bool) {
		covered := true
		rec.Owners(func(st crdt.Stamp) bool { covered = covered && peer.Covered(st); return covered })
		return rec, has(rec.Key) || !covered
	})
	return n, nil
}

// rebuildLocked is a replica of what keep leaves, in a new epoch, as a Replica
// has no way to take a row out.
func (s *memStore) rebuildLocked(keep func(crdt.Record) (crdt.Record, bool)) (gone int) {
	s.self.Epoch++
	d := crdt.Delta{}
	for o, head := range s.replica.Heads() {
		d.Ranges = append(d.Ranges, crdt.Range{Origin: o, To: head})
	}
	for _, rec := range s.replica.Records() {
		if rec, ok := keep(rec); ok {
			d.Records = append(d.Records, rec)
		} else {
			gone++
		}
	}
	s.replica = crdt.NewReplica(s.self)
	s.replica.Apply(d)
	return gone
}

// anew writes all rows again in another epoch, and claims nothing of the first.
// The lock is held.
func (s *memStore) anew() {
	s.self.Epoch++
	rows := s.replica.Records()
	s.replica = crdt.NewReplica(s.self)
	for _, rec := range rows {
		values := map[string]crdt.Value{}
		for _, c := range rec.Cells {
			values[c.Column] = c.Value
		}
		s.replica.Write(rec.Key, crdt.At(time.Now().UnixMilli()), values)
	}
}

func (s *memStore) origin() crdt.Origin {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.self
}

// collect forgets the deletes that everybody has seen.
func (s *memStore) collect(confirmed crdt.Heads) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.horizon.Raise(confirmed)
	return s.rebuildLocked(func(rec crdt.Record) (crdt.Record, bool) { return rec, !forgotten(rec, confirmed) })
}

// tamper changes a row behind the clock's back.
func (s *memStore) tamper(key crdt.Key, change func(crdt.Record) (crdt.Record, bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rebuildLocked(func(rec crdt.Record) (crdt.Record, bool) {
		if rec.Key == key {
			return change(rec)
		}
		return rec, true
	})
}

func (s *memStore) sum() (sum crdt.Sum) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.replica.States() {
		sum = sum.Plus(b)
	}
	return sum
}

func (s *memStore) get(key crdt.Key) (crdt.Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replica.Get(key)
}

func (s *memStore) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}
