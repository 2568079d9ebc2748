package gossip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// Two peers whose heads are equal should hold the same rows. Where they do
// not, something wrote past the clock, or a bit fell:
//
//	digest (heads, horizon, sum of all)  ->
//	                                    <-  sums (of the buckets), if it differs
//	rows (buckets that differ)           ->
//	delta (my rows of them) ...          ->
//	                                    <-  delta (my rows of them) ...
//
// and merging both ways makes them equal. Deletes that either side has
// forgotten count on neither.

// digestFrame begins a comparison.
type digestFrame struct {
	heads, horizon crdt.Heads
	sum            crdt.Sum
}

func (f digestFrame) append(b []byte) []byte {
	return f.sum.Append(appendHeads(appendHeads(b, f.heads), f.horizon))
}

func decodeDigest(b []byte) (f digestFrame, err error) {
	r := &reader{b: b}
	f.heads, f.horizon, f.sum = r.heads(), r.heads(), r.sum()
	return f, r.end("digest")
}

// sumsFrame answers it, with no sums where there is nothing to compare: the
// whole is equal, or heads have moved.
type sumsFrame struct {
	horizon crdt.Heads
	sums    []crdt.Sum // none or crdt.Buckets
}

func (f sumsFrame) append(b []byte) []byte {
	b = binary.AppendUvarint(appendHeads(b, f.horizon), uint64(len(f.sums)))
	for _, s := range f.sums {
		b = s.Append(b)
	}
	return b
}

const sumBytes = 16

func decodeSums(b []byte) (f sumsFrame, err error) {
	r := &reader{b: b}
	f.horizon = r.heads()
	n := r.count(sumBytes)
	if n != 0 && n != crdt.Buckets {
		r.fail(fmt.Errorf("%d sums, want %d", n, crdt.Buckets))
		n = 0
	}
	for range n {
		f.sums = append(f.sums, r.sum())
	}
	return f, r.end("sums")
}

// rowsFrame asks for the rows of buckets, which are in ascending order.
type rowsFrame struct {
	horizon crdt.Heads
	buckets []int
}

func (f rowsFrame) append(b []byte) []byte {
	b = binary.AppendUvarint(appendHeads(b, f.horizon), uint64(len(f.buckets)))
	for _, n := range f.buckets {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return b
}

func decodeRows(b []byte) (f rowsFrame, err error) {
	r := &reader{b: b}
	f.horizon = r.heads()
	for range r.count(1) {
		n := r.uvarint()
		if n >= crdt.Buckets || len(f.buckets) > 0 && n <= uint64(f.buckets[len(f.buckets)-1]) {
			r.fail(fmt.Errorf("bucket %d", n))
		}
		if r.err != nil {
			break
		}
		f.buckets = append(f.buckets, int(n))
	}
	return f, r.end("rows")
}

func (r *reader) sum() crdt.Sum { return crdt.SumOf(r.bytes(sumBytes)) }

// comparison is a digest that we began and that is not answered yet.
type comparison struct {
	heads, horizon crdt.Heads
	sums           []crdt.Sum
}

// digest begins a comparison with one peer that should be equal.
func (m *Mesh) digest(context.Context) {
	m.mu.Lock()
	var equal []*stream
	for _, node := range slices.Sorted(maps.Keys(m.peers)) {
		if p := m.peers[node]; p.stream != nil && p.stream.compare == nil && maps.Equal(m.own, p.heads) {
			equal = append(equal, p.stream)
		}
	}
	m.mu.Unlock()
	if len(equal) > 0 {
		s := equal[int(m.cfg.Rand()*float64(len(equal)))%len(equal)]
		_ = s.ask(job{compare: true}) // too busy: another time
	}
}

// statesAt are the sums of all buckets while our heads are these and we have
// forgotten nothing that the horizon does not cover; false when that is not so, or
// not any more.
func (m *Mesh) statesAt(ctx context.Context, heads, horizon crdt.Heads) (sums []crdt.Sum, ok bool, err error) {
	for i := range 2 {
		if err := m.refresh(ctx); err != nil {
			return nil, false, err
		}
		if own, forgotten := m.state(); !maps.Equal(own, heads) || !horizon.Covers(forgotten) {
			return nil, false, nil
		}
		if i == 0 {
			if sums, err = m.cfg.Store.States(ctx, horizon); err != nil {
				return nil, false, fmt.Errorf("sum up the rows: %w", err)
			}
			if len(sums) != crdt.Buckets {
				return nil, false, fmt.Errorf("sum up the rows: %d sums, want %d", len(sums), crdt.Buckets)
			}
		}
	}
	return sums, true, nil
}

func total(sums []crdt.Sum) (t crdt.Sum) {
	for _, s := range sums {
		t = t.Plus(s)
	}
	return t
}

func (s *stream) beginCompare(ctx context.Context) error {
	if err := s.m.refresh(ctx); err != nil { // deletes are forgotten without a word to us
		return err
	}
	heads, horizon := s.m.state()
	s.m.mu.Lock()
	horizon = higher(horizon, s.peer.horizon)
	s.m.mu.Unlock()
	sums, ok, err := s.m.statesAt(ctx, heads, horizon)
	if err != nil || !ok {
		return err
	}
	s.m.stats.digests.Add(1)
	s.m.mu.Lock()
	s.compare = &comparison{heads: heads, horizon: horizon, sums: sums}
	s.m.mu.Unlock()
	return s.emit(ctx, appendFrame(nil, kindDigest, digestFrame{heads: heads, horizon: horizon, sum: total(sums)}.append))
}

func higher(a, b crdt.Heads) crdt.Heads {
	h := crdt.Heads{}
	h.Raise(a)
	h.Raise(b)
	return h
}

// answerDigest sends our sums where the whole differs.
func (s *stream) answerDigest(ctx context.Context, f digestFrame) error {
	_ = s.m.refresh(ctx) // statesAt says what is wrong
	_, horizon := s.m.state()
	horizon = higher(horizon, f.horizon)
	sums, ok, err := s.m.statesAt(ctx, f.heads, horizon)
	answer := sumsFrame{horizon: horizon}
	if err == nil && ok && total(sums) != f.sum {
		answer.sums = sums
	}
	return errors.Join(err, s.emit(ctx, appendFrame(nil, kindSums, answer.append)))
}

// takeSums sends and asks for the rows of the buckets that differ.
func (s *stream) takeSums(ctx context.Context, f sumsFrame) error {
	s.m.mu.Lock()
	c := s.compare
	s.compare = nil
	s.m.mu.Unlock()
	if c == nil {
		s.close(garbage(errors.New("sums that nobody asked for")))
		return nil
	}
	if f.sums == nil {
		return nil
	}
	sums, ok, err := s.m.statesAt(ctx, c.heads, f.horizon)
	if err != nil || !ok {
		return err
	}
	want := rowsFrame{horizon: f.horizon}
	for i := range sums {
		if sums[i] != f.sums[i] {
			want.buckets = append(want.buckets, i)
		}
	}
	if len(want.buckets) == 0 {
		return nil
	}
	s.m.stats.digestsDiffer.Add(1)
	s.m.log.Warn().Str("peer", s.node).Int("buckets", len(want.buckets)).Msg("rows differ where heads do not, exchanged")
	if err := s.emit(ctx, appendFrame(nil, kindRows, want.append)); err != nil {
		return err
	}
	return s.sendRows(ctx, want)
}

const bucketsAtOnce = 16

// sendRows sends what we have in the buckets.
func (s *stream) sendRows(ctx context.Context, f rowsFrame) error {
	for part := range slices.Chunk(f.buckets, bucketsAtOnce) {
		rows, err := s.m.cfg.Store.Bucket(ctx, part)
		if err != nil {
			return fmt.Errorf("read buckets: %w", err)
		}
		rows = slices.DeleteFunc(rows, func(rec crdt.Record) bool { return forgotten(rec, f.horizon) })
		d := deltaFrame{repair: true, delta: crdt.Delta{Records: rows}}
		if err := s.m.frames(d, func(b []byte) error { return s.emit(ctx, b) }); err != nil {
			return err
		}
	}
	return nil
}

// forgotten says whether the record is a delete that no POP needs any more.
func forgotten(rec crdt.Record, horizon crdt.Heads) bool {
	if rec.Live() {
		return false
	}
	all := true
	rec.Owners(func(s crdt.Stamp) bool {
		all = horizon.Covered(s)
		return all
	})
	return all
}
