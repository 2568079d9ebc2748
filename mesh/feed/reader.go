package feed

import "slices"

// Type is what an event says.
type Type string

// The types.
const (
	Change Type = "change" // the key's state, which it has now
	Delete Type = "delete" // the key is no more, or is not one that the filter lets through any more
	Reset  Type = "reset"  // forget all: everything follows
	Ready  Type = "ready"  // everything has been sent that there was at the beginning
	Lag    Type = "lag"    // states were overwritten before this reader came to them
)

// Event is what a reader gets. Whoever goes on from its ID gets what comes
// behind it.
type Event struct {
	ID     ID
	Type   Type
	Key           // of Change and Delete
	State  []byte // of Change; not to be written to
	Missed uint64 // of Lag: how many changes it will never see
	Reason string // of Reset
}

// Filter says what a reader wants. Its zero value is everything.
type Filter struct {
	Kinds []Kind // none: all
	App   string // only what belongs to it; empty: all
}

// Reader is how far somebody has read, and all that is kept for them.
type Reader struct {
	filter Filter
	after  uint64 // everything up to this arrival is done with
	floor  uint64 // deletions up to this one it has no need of: it began with nothing
	goal   uint64 // it is ready when it gets there
	ready  bool
	reset  string // why it has to begin anew, which it is not told yet; empty: it does not
	missed uint64 // since the last Lag
}

// Why a reader begins anew.
const (
	whyNew     = "it is not known what was seen before"
	whyNode    = "the id is another POP's"
	whyLife    = "the id is of another life of this POP"
	whyFuture  = "the id is none that was given out"
	whyForgot  = "the id is from before what is still known"
	whyTooSlow = "deletions are forgotten that were not read yet"
)

// Open begins to read behind from, or where that is nil or not known any more,
// with everything. Close ends it.
func (l *Log) Open(from *ID, f Filter) *Reader {
	r := &Reader{filter: f}
	l.readers[r] = true
	switch {
	case from == nil:
		l.restart(r, whyNew)
	case from.Node != l.node:
		l.restart(r, whyNode)
	case from.Epoch != l.epoch:
		l.restart(r, whyLife)
	case from.Arrival > l.last:
		l.restart(r, whyFuture)
	case from.Arrival < l.horizon:
		l.restart(r, whyForgot)
	default:
		r.after, r.goal = from.Arrival, l.last
	}
	return r
}

// OpenNow begins to read what comes.
func (l *Log) OpenNow(f Filter) *Reader {
	return l.Open(&ID{l.node, l.epoch, l.last}, f)
}

// Close forgets a reader.
func (l *Log) Close(r *Reader) { delete(l.readers, r) }

// Readers is how many are open.
func (l *Log) Readers() int { return len(l.readers) }

func (l *Log) restart(r *Reader, why string) {
	*r = Reader{filter: r.filter, floor: l.last, goal: l.last, reset: why}
}

// At is where the reader is.
func (l *Log) At(r *Reader) ID { return ID{l.node, l.epoch, r.after} }

// Next is what the reader has not seen yet, at most about so many events; none
// where it has seen all.
func (l *Log) Next(r *Reader, most int) (events []Event) {
	if max(r.after, r.floor) < l.horizon {
		l.restart(r, whyTooSlow)
	}
	if r.reset != "" {
		events = append(events, Event{ID: l.At(r), Type: Reset, Reason: r.reset})
		r.reset = ""
	}
	if r.missed > 0 {
		events = append(events, Event{ID: l.At(r), Type: Lag, Missed: r.missed})
		r.missed = 0
	}
	for _, s := range l.slots[l.after(r.after):] {
		if len(events) >= most {
			return events
		}
		if s.dead() {
			continue
		}
		if !r.ready && s.arrival > r.goal {
			events = append(events, l.readied(r, r.goal))
		}
		r.after = s.arrival
		if e, wanted := r.see(s.entry); wanted {
			e.ID = l.At(r)
			events = append(events, e)
		}
	}
	if r.after = l.last; !r.ready {
		events = append(events, l.readied(r, l.last))
	}
	return events
}

func (l *Log) readied(r *Reader, at uint64) Event {
	r.after, r.ready = max(r.after, at), true
	return Event{ID: l.At(r), Type: Ready}
}

// see is what the entry is to the reader.
func (r *Reader) see(e *entry) (Event, bool) {
	switch {
	case !r.filter.lets(e):
		return Event{}, false
	case !e.deleted:
		return Event{Type: Change, Key: e.Key, State: e.state}, true
	}
	return Event{Type: Delete, Key: e.Key}, e.arrival > r.floor
}

// lets says whether the filter lets an entry through.
func (f Filter) lets(e *entry) bool {
	if len(f.Kinds) > 0 && !slices.Contains(f.Kinds, e.Kind) {
		return false
	}
	return f.App == "" && !e.moved || f.App != "" && f.App == e.app
}

// overtaken notes that an entry gets a new state. Until a reader is ready it is
// owed the latest state of every key, and later each of them.
func (r *Reader) overtaken(e *entry, arrival uint64) {
	if e.arrival <= r.after {
		return
	}
	if _, wanted := r.see(e); !wanted {
		return
	}
	if !r.ready && e.arrival <= r.goal {
		r.goal = arrival
		return
	}
	r.missed++
}
