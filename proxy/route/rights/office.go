package rights

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// office is this POP's time as home of one backend, first as a candidate.
type office struct {
	*account
	began   time.Time
	seated  bool
	holders map[string]*holder
	ledger  Ledger           // as it is sent
	safe    map[string]Entry // of the latest version that most voters keep
	written uint64           // that version
	seq     uint64           // of grants
}

// holder is what the home knows of one POP.
type holder struct {
	claimed bool // in this term; else granted is the bound that was found
	life    uint64
	seq     uint64
	heard   time.Time
	granted int64 // rights that it has, or may have
	number  uint64
	want    int64
	urgent  bool
	version uint64 // of the ledger that it keeps
	ack     uint64 // Grant.Seq of the latest that it has
	kept    Ledger // from before this term
	roster  []string

	said   Grant
	saidAt time.Time
}

func newOffice(a *account, now time.Time) *office {
	return &office{account: a, began: now, holders: map[string]*holder{}, ledger: Ledger{Term: a.term}}
}

func (o *office) holder(name string) *holder {
	h := o.holders[name]
	if h == nil {
		h = &holder{}
		o.holders[name] = h
	}
	return h
}

// claimed takes a POP's word.
func (a *account) claimed(from string, c *Claim, now time.Time) {
	if c.Term.Compare(a.term) > 0 {
		a.follow(c.Term, now)
		return
	}
	o := a.office
	if o == nil {
		if c.Term != a.term { // it takes this POP for the home that it is no more
			a.tellTerm(from)
		}
		return
	}
	if c.Term != a.term { // it has not heard of this one
		if h := o.holders[from]; h == nil || now.Sub(h.saidAt) >= repeat {
			o.say(from, now)
		}
		return
	}
	h := o.holder(from)
	switch {
	case c.Life < h.life || c.Life == h.life && c.Seq <= h.seq:
		return
	case c.Life > h.life: // born again: all that it had has ended with its process
		*h = holder{life: c.Life}
	}
	h.seq, h.heard, h.want, h.urgent, h.version, h.ack = c.Seq, now, c.Want, c.Urgent, c.Version, c.Ack
	if c.Version == 0 {
		h.kept, h.roster = c.Kept, c.Roster
	}
	// What it claims with an earlier grant than the last says nothing of the last.
	if !h.claimed || c.Grant == h.number {
		h.claimed, h.granted = true, c.Held
	}
	o.step(now)
}

// step does what is due.
func (o *office) step(now time.Time) {
	if !o.seated {
		o.seat(now)
	}
	if o.seated {
		if o.count(now) {
			o.run(now)
			return
		}
		o.allot()
		o.write(now)
	}
	for _, name := range o.names() {
		o.tell(name, now)
	}
}

// names are all that are on the roster or have rights, in order.
func (o *office) names() []string {
	names := map[string]bool{o.book.self: true}
	for name := range o.holders {
		names[name] = true
	}
	for name := range o.book.on {
		names[name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// seat begins to grant, once it is known what every POP has, or at most.
func (o *office) seat(now time.Time) {
	waited := now.Sub(o.began) >= Lease
	var found Ledger
	known := map[string]bool{o.book.self: true}
	for name := range o.book.on {
		known[name] = true
	}
	for _, h := range o.holders {
		for _, name := range h.roster {
			known[name] = true
		}
		if h.kept.later(found) {
			found = h.kept
		}
	}
	entries := map[string]Entry{}
	voters, voting := 0, 0
	for name, e := range found.Entries {
		if waited && !known[name] {
			continue // it has left, or was forgotten
		}
		known[name] = true
		entries[name] = e
		if e.Voter != 0 {
			voters++
			if h := o.holders[name]; h != nil && h.claimed && h.life == e.Voter {
				voting++
			}
		}
	}
	all := o.book.mesh.Met
	for name := range known {
		h := o.holders[name]
		all = all && h != nil && h.claimed
	}
	most := 2*voting > voters
	switch {
	case all && !most: // all that voted before are gone; everything is known anew
		entries = map[string]Entry{o.book.self: {Voter: o.book.life}}
	case !all && !(most && waited):
		return
	}
	o.seated = true
	for name := range known {
		h, e := o.holder(name), entries[name]
		if h.claimed {
			e.Bound, e.Life = h.granted+o.reserve(), h.life
		} else {
			h.granted, h.heard = e.Bound, now
		}
		entries[name] = e
	}
	o.ledger = Ledger{Term: o.term, Version: 1, Entries: entries}
}

// reserve is how many rights more than a POP has are written down for it, so
// that most grants need no writing first.
func (o *office) reserve() int64 { return max(2, o.Limit/20) }

// count finds out whether most voters keep what was written last. Where so
// many have lost what they kept that most never will, it is to be found out
// anew what everybody has.
func (o *office) count(now time.Time) (lost bool) {
	if o.written == o.ledger.Version {
		return false
	}
	voters, keep, gone := 0, 0, 0
	for name, e := range o.ledger.Entries {
		if e.Voter == 0 {
			continue
		}
		voters++
		h := o.holder(name)
		switch {
		case h.claimed && h.life == e.Voter && h.version >= o.ledger.Version:
			keep++
		case h.claimed && h.life > e.Voter, o.left(name, h, now):
			gone++
		}
	}
	if 2*keep > voters {
		o.written, o.safe = o.ledger.Version, o.ledger.Entries
		return false
	}
	return 2*gone >= voters
}

// free is how many rights nobody has; below 0: the limit is exceeded.
func (o *office) free() int64 {
	free := o.Limit
	for _, h := range o.holders {
		free -= h.granted
	}
	return free
}

// bound is what a POP may have by what is written down. What is not written by
// most yet may be what the next home finds, and so may what was before it.
func (o *office) bound(name string) int64 {
	a, b := o.safe[name], o.ledger.Entries[name]
	if life := o.holders[name].life; a.Life != life || b.Life != life {
		return 0
	}
	return min(a.Bound, b.Bound)
}

// urgent is how many rights those lack, other than h, whose clients can go
// nowhere else.
func (o *office) urgent(h *holder) (lack int64) {
	for name, other := range o.holders {
		if other != h && other.claimed && other.urgent && o.listed(name) {
			lack += max(0, other.want-other.granted)
		}
	}
	return lack
}

// allot grants what is free: those first whose clients can go nowhere else,
// and to all the same. Who is not on the roster gets none: it would count as
// gone as soon as it is silent.
func (o *office) allot() {
	for _, urgent := range []bool{true, false} {
		var needy []string
		for name, h := range o.holders {
			if h.claimed && o.listed(name) && h.urgent == urgent && h.want > h.granted && o.bound(name) > h.granted {
				needy = append(needy, name)
			}
		}
		slices.SortFunc(needy, func(a, b string) int {
			return cmp.Or(cmp.Compare(o.lacks(a), o.lacks(b)), cmp.Compare(a, b))
		})
		free := o.free()
		if !urgent {
			free -= o.urgent(nil) // what they cannot have before it is written down
		}
		for i, name := range needy {
			h, left := o.holders[name], int64(len(needy)-i)
			n := min(o.lacks(name), (free+left-1)/left, free)
			if n <= 0 {
				break
			}
			h.granted += n
			h.number++
			free -= n
		}
	}
}

func (o *office) lacks(name string) int64 {
	h := o.holders[name]
	return min(h.want, o.bound(name)) - h.granted
}

// write begins the next version of the ledger where one is due and the last
// one is written: in it, at most one voter comes or goes, so that most of those
// before and most of those after always have one in common.
func (o *office) write(now time.Time) {
	if o.written != o.ledger.Version {
		return
	}
	next := maps.Clone(o.ledger.Entries)
	free := max(0, o.free())
	for name, h := range o.holders {
		e := next[name]
		if !h.claimed {
			e.Bound = h.granted
		} else {
			need := max(h.granted, min(h.want, h.granted+free))
			if e.Life != h.life || e.Bound < need+o.reserve()/2 || e.Bound > need+3*o.reserve() {
				e.Bound, e.Life = need+o.reserve(), h.life
			}
		}
		next[name] = e
	}
	if name, voter, due := o.vote(now); due {
		e := next[name]
		e.Voter = voter
		next[name] = e
	}
	for name, h := range o.holders {
		if next[name].Voter == 0 && o.left(name, h, now) {
			delete(o.holders, name)
			delete(next, name)
		}
	}
	if !maps.Equal(next, o.ledger.Entries) {
		o.ledger = Ledger{Term: o.term, Version: o.ledger.Version + 1, Entries: next}
		o.count(now)
	}
}

// vote is the next change of the voters: those go first that cannot vote any
// more, as nobody can whose process has lost what it kept.
func (o *office) vote(now time.Time) (name string, voter uint64, due bool) {
	for _, name := range slices.Sorted(maps.Keys(o.holders)) {
		h, e := o.holders[name], o.ledger.Entries[name]
		reborn := h.claimed && h.life != e.Voter
		if e.Voter != 0 && (reborn || !o.listed(name)) {
			return name, 0, true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.holders)) {
		h, e := o.holders[name], o.ledger.Entries[name]
		if e.Voter == 0 && h.claimed && o.listed(name) && now.Sub(h.heard) < Lease && h.version >= 1 {
			return name, h.life, true
		}
	}
	return "", 0, false
}

func (o *office) listed(name string) bool { return name == o.book.self || o.book.on[name] }

// left says whether a POP has gone for good: it is on the roster no more, and
// has been silent for a lease.
func (o *office) left(name string, h *holder, now time.Time) bool {
	return !o.listed(name) && now.Sub(h.heard) >= Lease
}

// tell says how things are to a POP, where it does not know.
func (o *office) tell(name string, now time.Time) {
	h := o.holder(name)
	g := o.grant(h)
	was := &h.said
	same := was.Seq > 0 && g.Life == was.Life && g.Number == was.Number && g.Limit == was.Limit && g.Version == was.Version &&
		g.Short == was.Short && g.Tight == was.Tight && (g.Some == was.Some || h.want <= h.granted)
	// Who is silent may have been born again, and waits for a word.
	if knows := h.claimed && h.ack == was.Seq && now.Sub(h.heard) < 2*refresh; same && (knows || now.Sub(h.saidAt) < repeat) {
		return
	}
	o.say(name, now)
}

func (o *office) say(name string, now time.Time) {
	h := o.holder(name)
	g := o.grant(h)
	o.seq++
	g.Seq = o.seq
	h.said, h.saidAt = g, now
	o.book.send(Message{To: name, Grant: &g})
}

func (o *office) grant(h *holder) Grant {
	g := Grant{Backend: o.id, Term: o.term, Life: h.life, Number: h.number, Rights: h.granted, Limit: o.Limit, Version: o.ledger.Version}
	if h.version < o.ledger.Version {
		g.Entries = o.ledger.Entries
	}
	if !o.seated {
		return g
	}
	free := o.free()
	g.Some = free > 0
	g.Short = o.Limit > 0 && free < 0
	g.Tight = o.urgent(h) > max(0, free)
	return g
}
