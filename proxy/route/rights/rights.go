// Package rights keeps the connections of a whole mesh with a backend within
// its hard limit, exactly: a POP opens one only with a right to it, and of
// rights there are never more than the limit.
//
//	book := rights.New("sa-1", life)
//	book.SetMesh(rights.Mesh{Roster: others, Alive: lives, Met: true})
//	out := book.Tick(now, demands)          // four times a second
//	out = book.Ask(now, "sa-1", 1, false)   // as soon as a client waits
//	out = book.Receive(now, from, message)  // what it says is to be sent
//
// For each backend one POP is home. It holds what is left of the limit, grants
// rights to POPs that claim them, and takes back what they do not use:
//
//	holder ── claim: what I have, what I want, what I keep of your ledger ──▶ home
//	       ◀── grant: what you have, in all; the ledger ─────────────────────
//
// Every message states how things are, in full. It may be lost, repeated or
// overtaken: a later one says it again, and numbers tell which is later.
//
// A home is fenced by its Term, of which each POP follows the latest it has met.
// Its ledger (who may have how many) is kept by voters, and it grants only what
// most of them have written down. So the next home finds, at most of them, for
// every POP that does not answer a bound on what that may use.
//
//	none ── first in rank of those alive, and no home is ──▶ candidate
//	candidate ── all POPs of the roster have claimed ──────▶ seated
//	          ── most voters have, and a lease has passed ─▶ seated
//	either ── somebody follows a later term ───────────────▶ none
//
// Invariants:
//   - Over all POPs, rights are at most the limit, whatever is lost, repeated or
//     overtaken, whoever dies, and however wrong POPs are about who lives.
//   - Rights that a POP holds stay its own while it can reach nobody: it goes on
//     with them. What a silent POP may use comes back when it is heard again,
//     was born again, or is on nobody's roster any more; not by time alone, for
//     nobody can know what it did with them meanwhile.
//   - A limit that is lowered cuts nothing, and nothing opens until the
//     connections are below it.
//
// The package computes only. It does not choose backends, send, wait, or find
// out who is alive.
package rights

import (
	"cmp"
	"time"
)

// Lease is how long a candidate waits for POPs that have not answered, and how
// long one that is on no roster must have been silent to count as gone.
const Lease = 10 * time.Second

// Term is a POP's time as home of one backend. The later one fences off the
// earlier.
type Term struct {
	N    uint64
	Life uint64 // of the home's process
	Home string
}

// Compare orders terms by time.
func (t Term) Compare(o Term) int {
	return cmp.Or(cmp.Compare(t.N, o.N), cmp.Compare(t.Life, o.Life), cmp.Compare(t.Home, o.Home))
}

// Entry is what the ledger says of one POP.
type Entry struct {
	Bound int64 // it has at most so many rights
	// Life is of the process for which Bound was written down. One that was born
	// again has forgotten which term it follows: nothing of before is granted to it.
	Life  uint64
	Voter uint64 // the life of the process that counts among those who keep the ledger; 0: none does
}

// Ledger is one state of what a home has written down. It is never changed.
type Ledger struct {
	Term    Term
	Version uint64 // from 1; 0: none
	Entries map[string]Entry
}

// later says whether l follows o.
func (l Ledger) later(o Ledger) bool {
	return cmp.Or(l.Term.Compare(o.Term), cmp.Compare(l.Version, o.Version)) > 0
}

// Claim is what a POP says to a home.
type Claim struct {
	Backend string
	Term    Term   // the latest that it has met, whoever is home in it
	Life    uint64 // of its process
	Seq     uint64 // of that life, rising
	Grant   uint64 // number of the rights that it has, of this term
	Ack     uint64 // Grant.Seq of the latest that it has, of this term
	Held    int64  // its rights, and what it has beyond them
	Want    int64  // rights that it would like to have
	Urgent  bool   // clients wait who can go nowhere else
	Version uint64 // of this term's ledger, that it keeps; 0: none yet
	// Until it keeps one of this term:
	Kept   Ledger   // the latest that it does keep
	Roster []string // whom it knows
}

// Grant is what a home says to a POP.
type Grant struct {
	Backend string
	Term    Term
	Seq     uint64 // of the term, rising
	Life    uint64 // of the POP's process for which it is
	Number  uint64 // of the rights, from 1; 0: nothing has been granted
	Rights  int64  // that it has now
	Limit   int64  // that is kept to; 0: the home knows of none
	Some    bool   // there are more to be had
	Short   bool   // the limit is exceeded: give back every right that gets free
	Tight   bool   // others wait: give back what is not used
	Version uint64 // of the ledger; 0: not seated yet
	Entries map[string]Entry
}

// Message is a Claim or a Grant, for one POP.
type Message struct {
	To    string
	Claim *Claim
	Grant *Grant
}

// Places are the connections that this POP has with one backend, and the
// rights to more. They are taken and given back by others at the same time.
type Places interface {
	// Spare is rights minus connections; below 0: connections beyond rights.
	Spare() int64
	// AddRights adds n, which may be negative.
	AddRights(n int64)
	// GiveBack takes up to n unused rights away, and says how many.
	GiveBack(n int64) int64
	// Hold, while it is on, keeps the rights of connections that end from use.
	Hold(on bool)
	// Ended is how many rights Hold has kept since it was last asked.
	Ended() int64
	// Offer says whether the home has more rights to give.
	Offer(some bool)
}

// Demand is what this POP needs of one backend.
type Demand struct {
	Backend string
	Limit   int64 // hard_limit; 0: none
	Spare   int64 // rights that should be at hand
	Waiting int64 // clients that wait for one
	Urgent  bool  // and can go nowhere else
	Places  Places
}

// Mesh is who there is, as far as this POP knows.
type Mesh struct {
	Roster []string          // the other members
	Alive  map[string]uint64 // those of them that are heard, with the life of their process
	Met    bool              // it knows the mesh, or there is none to be known
}
