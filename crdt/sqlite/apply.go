package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// maxColumns is how many columns a record may have: ours, those that an
// operator added, and those of newer versions, which are kept unseen.
const maxColumns = 64

// Apply merges what a peer sent and moves the heads over its ranges, in
// transactions of about 10 ms, the heads in the last of them. Local changes are
// sealed first, so that a write which nobody has seen yet is not lost to one
// that came earlier. What is stamped too far ahead waits in the quarantine.
func (s *Store) Apply(ctx context.Context, peer string, d crdt.Delta) (a crdt.Applied, err error) {
	if err := s.sealAll(ctx); err != nil {
		return a, err
	}
	sifted := false
	for rest, first := d.Records, true; first || len(rest) > 0; first = false {
		err := s.replicating(ctx, func(p *replica) error {
			if !sifted {
				rest, sifted = p.suspects.without(rest, &a), true
			}
			chunk := rest[:min(len(rest), p.batchSize)]
			chunk = chunk[:p.suspects.next(chunk)]
			if err := s.knownOfUsLocked(ctx, crdt.Delta{Ranges: d.Ranges, Records: chunk}); err != nil {
				return err
			}
			part := crdt.Delta{Records: chunk}
			if len(chunk) == len(rest) {
				part.Ranges, part.Horizon = d.Ranges, d.Horizon
			}
			begin := time.Now()
			p.suspects.begin(chunk)
			err := s.mergeLocked(ctx, part, merging{peer: peer, limit: p.limit(), within: p.limit(), declared: d.Declared, repair: d.Repair}, &a)
			p.suspects.done(chunk) // an error is no crash
			if err != nil {
				return err
			}
			s.listTablesLocked()
			p.adapt(len(chunk), time.Since(begin))
			rest = rest[len(chunk):]
			return nil
		})
		if err != nil {
			return a, err
		}
	}
	return a, nil
}

// bound is up to when stamps are merged into a row. One that has a stamp beyond
// the limit, since mesh time went back or somebody released it, is written on
// by all who have it so.
func bound(limit crdt.Time, row crdt.Record) crdt.Time {
	if t := latest(row); t > limit {
		return max(limit, crdt.At(t.Milli()+tooFar))
	}
	return limit
}

// merging says how records are merged.
type merging struct {
	peer     string
	limit    crdt.Time       // what is later is held
	within   crdt.Time       // what is later carries no clock along
	declared map[string]bool // tables that the peer says it has
	repair   bool            // also what was known here and is gone
	// The records come from the quarantine, and leave it.
	release bool
}

// mergeLocked merges a delta in one transaction; a grows only if that succeeds.
func (s *Store) mergeLocked(ctx context.Context, d crdt.Delta, how merging, a *crdt.Applied) error {
	p := s.replica
	if err := s.sealAllLocked(ctx); err != nil {
		return err
	}
	if len(d.Records) == 0 && !p.moves(d.Ranges) && p.horizon.Covers(d.Horizon) {
		return nil
	}
	var done crdt.Applied
	merge := func(sealing bool) error {
		return s.commitLocked(ctx, sealing, func(b *batch) error {
			if sealing {
				if err := b.sealPending(); err != nil {
					return err
				}
			} else if yes, err := pending(b.ctx, b.c); err != nil {
				return err
			} else if yes {
				return errPending
			}
			done = crdt.Applied{}
			if err := b.merge(d.Records, how, &done); err != nil {
				return err
			}
			for _, g := range d.Ranges {
				head := b.heads[g.Origin]
				if g.Origin != b.self && g.From <= head && g.To > head && g.To <= 1<<62 && b.room(g.Origin) {
					b.heads[g.Origin], b.moved[g.Origin] = g.To, true
				}
			}
			for o, n := range d.Horizon {
				// Not beyond what is known here: no peer could ever cover it.
				if n = min(n, b.heads[o]); n > b.horizon[o] {
					b.horizon[o], b.moved[o] = n, true
				}
			}
			return nil
		})
	}
	err := merge(false)
	if errors.Is(err, errPending) { // somebody wrote in between
		err = merge(true)
	}
	if err != nil {
		return err
	}
	if a.Changed == nil {
		a.Changed = done.Changed
	} else {
		a.Changed = append(a.Changed, done.Changed...)
	}
	a.Refused = append(a.Refused, done.Refused...)
	a.Conflicts += done.Conflicts
	a.Held += done.Held
	return nil
}

func (p *replica) moves(ranges []crdt.Range) bool {
	for _, g := range ranges {
		if head := p.heads[g.Origin]; g.From <= head && g.To > head && g.Origin != p.self {
			return true
		}
	}
	return false
}

// maxHeadBytes is how many bytes of heads are kept, about: POPs tell each other
// all of them in one frame when they meet. Beyond it no head of another origin
// moves; its records come all the same.
const maxHeadBytes = 384 << 10

// room makes room for the origin's head, or says that there is none.
func (p *replica) room(o crdt.Origin) bool {
	if _, known := p.heads[o]; known {
		return true
	}
	if p.headBytes == 0 {
		for o := range p.heads {
			p.headBytes += headBytes(o)
		}
	}
	if p.headBytes+headBytes(o) > maxHeadBytes {
		return false
	}
	p.headBytes += headBytes(o)
	return true
}

func headBytes(o crdt.Origin) int { return len(o.Node) + 8 }

// merge merges records into those of the file.
func (b *batch) merge(records []crdt.Record, how merging, a *crdt.Applied) error {
	taken := make([]crdt.Record, 0, len(records))
	keys := make([]crdt.Key, 0, len(records))
	var held []crdt.Record
	for _, rec := range records {
		if err := b.admit(rec, how.release || how.declared[rec.Table]); err != nil {
			a.Refused = append(a.Refused, crdt.Refusal{Key: rec.Key, Err: err})
			continue
		}
		taken = append(taken, rec)
		keys = append(keys, rec.Key)
	}
	known, err := b.get(keys)
	if err != nil {
		return err
	}
	for i, rec := range taken {
		if _, there := known[rec.Key]; !there && !how.repair && !how.release && b.gone(rec) {
			taken[i] = crdt.Record{}
			continue
		}
		now, ahead := split(rec, bound(how.limit, known[rec.Key]))
		if ahead.Key != (crdt.Key{}) {
			held = append(held, ahead)
		}
		taken[i] = now
	}
	taken = slices.DeleteFunc(taken, func(rec crdt.Record) bool { return rec.Key == (crdt.Key{}) })
	first := make(map[crdt.Key]int, len(taken)) // of keys that come twice
	adding := map[string]int{}                  // bytes of foreign tables
	puts := make([]change, 0, len(taken))
	for _, rec := range taken {
		i, again := first[rec.Key]
		old, there := known[rec.Key]
		if again {
			old, there = puts[i].now, true
		}
		merged := rec
		if there {
			if merged = crdt.Merge(old, rec); merged.Equal(old) {
				continue
			}
			if !merged.Equal(rec) {
				a.Conflicts++
			}
		} else {
			top, _ := newest(rec)
			refused := b.roomFor(rec, adding)
			if refused == nil {
				if refused, err = b.take(top.Origin.Node); err != nil {
					return err
				}
			}
			if refused != nil {
				a.Refused = append(a.Refused, crdt.Refusal{Key: rec.Key, Err: refused})
				continue
			}
			if b.isForeign(rec.Table) {
				adding[rec.Table] += rec.Size()
			}
		}
		if len(merged.Cells) > maxColumns {
			a.Refused = append(a.Refused, crdt.Refusal{Key: rec.Key, Err: fmt.Errorf("with the columns known here it has %d, at most %d are taken", len(merged.Cells), maxColumns)})
			continue
		}
		if t := latest(merged); t <= how.within {
			b.clock.Observe(t)
		}
		if again {
			puts[i].now = merged
			continue
		}
		first[rec.Key] = len(puts)
		puts = append(puts, change{old: known[rec.Key], now: merged, show: true})
	}
	b.puts, a.Changed = slices.Grow(b.puts, len(puts)), slices.Grow(a.Changed, len(puts))
	for _, w := range puts {
		b.put(w)
		a.Changed = append(a.Changed, w.now)
	}
	if how.release {
		return nil
	}
	a.Held += len(held)
	return b.hold(held, how.peer)
}

// gone says whether a record of a row that is not here is an earlier state that
// was long on its way: all of it was known here, and the row has been forgotten
// since everybody had deleted it. What is gone for another reason comes by a
// repair.
func (b *batch) gone(rec crdt.Record) bool { return !b.damaged[rec.Key] && covered(b.heads, rec) }
