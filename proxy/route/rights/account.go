package rights

import "time"

const (
	repeat  = 500 * time.Millisecond // what is not known to have arrived is said again
	refresh = 2 * time.Second        // and a claim in any case
	// backOff is for a home that was deposed by one that it cannot hear: both
	// would go on deposing each other. Longer than a candidate waits.
	backOff = 2 * Lease
	// forgotten: an account that has been without limit, rights and news for so
	// long is closed; no message is under way for longer.
	forgotten = time.Hour
)

// account is this POP's part in one backend's rights: it holds some, keeps a
// ledger for the home, and may be home itself.
type account struct {
	book *Book
	id   string
	Demand

	term   Term   // the latest that it has met
	number uint64 // of the latest grant of that term
	rights int64
	kept   Ledger

	seq   uint64 // of the latest word of the home, of that term
	home  Grant  // it
	short bool   // rights that get free must not be used

	said   Claim // the last one
	saidAt time.Time
	idle   time.Time // since when there is neither limit nor right

	office   *office // nil: it is not home
	notUntil time.Time
}

// demand takes over what is needed.
func (a *account) demand(d Demand) {
	a.Demand = d
	a.hold()
}

// hold keeps rights that get free from use while the limit is exceeded, or
// might be, because the home has not counted by a lower one yet.
func (a *account) hold() {
	short := a.Limit > 0 && (a.home.Short || a.home.Limit > a.Limit)
	if short != a.short {
		a.short = short
		a.Places.Hold(short)
	}
}

// settle gives back what it should not keep.
func (a *account) settle() {
	a.rights -= a.Places.Ended()
	keep, spare := a.target(), a.Places.Spare()
	if spare > 2*keep || spare > keep && (a.short || a.home.Tight) {
		a.rights -= a.Places.GiveBack(spare - keep)
	}
}

// target is how many unused rights it wants.
func (a *account) target() int64 {
	switch {
	case a.Limit == 0 || a.short:
		return 0
	case a.home.Tight || a.Urgent: // what others have at hand is what these wait for
		return a.Waiting
	}
	return a.Spare + a.Waiting
}

// held is what counts against the limit: rights, and connections beyond them,
// from before there were any.
func (a *account) held() int64 { return a.rights + max(0, -a.Places.Spare()) }

// want is the number of rights that it asks for. It asks when half of the
// spare ones are used.
func (a *account) want() int64 {
	spare, target := max(0, a.Places.Spare()), a.target()
	if 2*spare > target || target == 0 {
		return 0
	}
	return a.held() - spare + target
}

// claim tells the home how things are, where that is news or it is time to.
func (a *account) claim(now time.Time) {
	if a.term.N == 0 || a.term.Home == "" {
		return
	}
	a.settle()
	c := Claim{
		Backend: a.id, Term: a.term, Life: a.book.life, Grant: a.number, Ack: a.seq, Held: a.held(), Want: a.want(),
		Urgent: a.Urgent, Version: a.version(),
	}
	if c.Version == 0 {
		c.Kept, c.Roster = a.kept, a.book.mesh.Roster
	}
	if c.says(a.said) && now.Sub(a.saidAt) < refresh {
		return
	}
	a.book.seq++
	c.Seq = a.book.seq
	a.said, a.saidAt = c, now
	a.book.send(Message{To: a.term.Home, Claim: &c})
}

// says whether c says the same as the one said before, as far as a home minds.
func (c *Claim) says(o Claim) bool {
	return c.Term == o.Term && c.Grant == o.Grant && c.Ack == o.Ack && c.Held == o.Held && c.Want == o.Want && c.Urgent == o.Urgent &&
		c.Version == o.Version && !c.Kept.later(o.Kept)
}

// version is that of the ledger of the current term; 0: it keeps none.
func (a *account) version() uint64 {
	if a.kept.Term != a.term {
		return 0
	}
	return a.kept.Version
}

// follow moves to a later term. What it claims from now on is all that counts,
// and nothing of the earlier term changes it any more.
func (a *account) follow(t Term, now time.Time) {
	if a.office != nil {
		a.office = nil
		if !a.book.gone(t) && !a.book.alive(t) {
			a.notUntil = now.Add(backOff)
		}
	}
	a.begin(t)
}

// begin is the first moment of a term, in which nothing was said yet.
func (a *account) begin(t Term) {
	a.term, a.number, a.seq, a.home.Some, a.home.Tight = t, 0, 0, false, false
	a.Places.Offer(false)
}

// granted takes a home's word.
func (a *account) granted(from string, g *Grant, now time.Time) {
	if g.Term.Home != from {
		return
	}
	switch c := g.Term.Compare(a.term); {
	case c < 0: // it does not know that it is home no more
		a.tellTerm(from)
		return
	case c > 0:
		a.follow(g.Term, now)
	}
	if g.Version > a.version() && g.Entries != nil {
		a.kept = Ledger{Term: g.Term, Version: g.Version, Entries: g.Entries}
	}
	if g.Life == a.book.life && g.Number > a.number {
		a.number = g.Number
		a.settle()
		a.Places.AddRights(g.Rights - a.rights)
		a.rights = g.Rights
	}
	if g.Seq > a.seq {
		a.seq, a.home = g.Seq, *g
		a.Places.Offer(g.Some)
		a.hold()
	}
	a.claim(now)
}

// tellTerm has another POP follow the term that this one does.
func (a *account) tellTerm(to string) {
	a.book.send(Message{To: to, Claim: &Claim{Backend: a.id, Term: a.term, Life: a.book.life}})
}

// tick is called from time to time.
func (a *account) tick(now time.Time) {
	a.settle()
	if a.office == nil && a.shouldRun(now) {
		a.run(now)
	}
	a.claim(now)
	if a.office != nil {
		a.office.step(now)
	}
}

// run makes this POP a candidate, in a term of its own.
func (a *account) run(now time.Time) {
	a.begin(Term{N: a.term.N + 1, Life: a.book.life, Home: a.book.self})
	a.office = newOffice(a, now)
	a.claim(now)
	a.office.step(now)
}

// shouldRun says whether this POP is to become home: nobody is, and of those
// that are alive it is the first in the backend's rank.
func (a *account) shouldRun(now time.Time) bool {
	if !a.book.mesh.Met || now.Before(a.notUntil) || a.Limit == 0 {
		return false
	}
	return (a.term.Home == a.book.self || !a.book.alive(a.term)) && a.book.first(a.id)
}

// idleSince is since when nothing is left of the account; zero: something is.
func (a *account) idleSince(now time.Time) time.Time {
	if a.Limit > 0 || a.held() > 0 {
		a.idle = time.Time{}
	} else if a.idle.IsZero() {
		a.idle = now
	}
	return a.idle
}
