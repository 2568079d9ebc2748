package rights

import (
	"hash/fnv"
	"io"
	"maps"
	"slices"
	"time"
)

// Book is this POP's part in the rights of all backends. Not safe for
// concurrent use.
type Book struct {
	self string
	life uint64
	mesh Mesh
	on   map[string]bool // Mesh.Roster

	accounts map[string]*account
	seq      uint64
	out      []Message
	own      []Message // to this POP itself
}

const (
	most     = 1 << 16 // backends that there are accounts for
	mostSelf = 1000    // messages of this POP to itself at one time; the rest waits for the next
)

// New makes the book of a POP's process. Of two lives of one POP the later
// has the greater number.
func New(self string, life uint64) *Book {
	return &Book{self: self, life: life, on: map[string]bool{}, accounts: map[string]*account{}}
}

// SetMesh takes over who there is.
func (b *Book) SetMesh(m Mesh) {
	b.mesh = m
	clear(b.on)
	for _, name := range m.Roster {
		b.on[name] = true
	}
}

// Tick takes over what is needed of all backends, and says what to send. A
// backend that is left out has no limit any more.
func (b *Book) Tick(now time.Time, demands []Demand) []Message {
	seen := make(map[string]bool, len(demands))
	for _, d := range demands {
		seen[d.Backend] = true
		if a := b.account(d); a != nil {
			a.demand(d)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(b.accounts)) {
		a := b.accounts[id]
		if !seen[id] {
			a.demand(Demand{Backend: id, Places: a.Places})
		}
		a.tick(now)
		if since := a.idleSince(now); !since.IsZero() && now.Sub(since) > forgotten {
			delete(b.accounts, id)
		}
	}
	return b.flush(now)
}

// Ask says what to send because so many clients wait for a right; urgent: they
// can go nowhere else. Of a backend that Tick has not seen, it is asked then.
func (b *Book) Ask(now time.Time, backend string, waiting int64, urgent bool) []Message {
	a := b.accounts[backend]
	if a == nil {
		return nil
	}
	a.Waiting, a.Urgent = waiting, urgent
	a.claim(now)
	return b.flush(now)
}

// account finds or makes one; nil: there are too many.
func (b *Book) account(d Demand) *account {
	a := b.accounts[d.Backend]
	if a == nil && len(b.accounts) < most {
		a = &account{book: b, id: d.Backend, Demand: d}
		b.accounts[d.Backend] = a
	}
	return a
}

// Receive takes what another POP sent, and says what to send. Of a backend
// that is not known here it takes no notice: it is said again.
func (b *Book) Receive(now time.Time, from string, m Message) []Message {
	b.take(now, from, m)
	return b.flush(now)
}

func (b *Book) take(now time.Time, from string, m Message) {
	switch {
	case m.Claim != nil:
		if a := b.accounts[m.Claim.Backend]; a != nil {
			a.claimed(from, m.Claim, now)
		}
	case m.Grant != nil:
		if a := b.accounts[m.Grant.Backend]; a != nil {
			a.granted(from, m.Grant, now)
		}
	}
}

func (b *Book) send(m Message) {
	if m.To == b.self {
		b.own = append(b.own, m)
	} else {
		b.out = append(b.out, m)
	}
}

// flush delivers what this POP says to itself, and returns the rest.
func (b *Book) flush(now time.Time) []Message {
	for n := 0; n < mostSelf && len(b.own) > 0; n++ {
		m := b.own[0]
		b.own = b.own[1:]
		b.take(now, b.self, m)
	}
	out := b.out
	b.out = nil
	return out
}

// Home is the backend's home, as far as this POP knows, and how many rights
// this POP has.
func (b *Book) Home(backend string) (home string, rights int64) {
	a := b.accounts[backend]
	if a == nil {
		return "", 0
	}
	return a.term.Home, a.rights
}

// alive says whether the home of a term is.
func (b *Book) alive(t Term) bool {
	if t.N == 0 {
		return false
	}
	if t.Home == b.self {
		return t.Life == b.life
	}
	return b.on[t.Home] && b.mesh.Alive[t.Home] == t.Life
}

// gone says that the home of a term is certainly not there any more: it has
// been born again.
func (b *Book) gone(t Term) bool {
	if t.Home == b.self {
		return t.Life != b.life
	}
	return b.mesh.Alive[t.Home] > t.Life
}

// first says whether this POP is the first in the backend's rank of those that
// are alive: rendezvous hashing, so that one POP's death moves its own only.
func (b *Book) first(backend string) bool {
	own := rank(backend, b.self)
	for name := range b.mesh.Alive {
		if r := rank(backend, name); b.on[name] && (r > own || r == own && name > b.self) {
			return false
		}
	}
	return true
}

func rank(backend, pop string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, backend)
	h.Write([]byte{0})
	io.WriteString(h, pop)
	x := h.Sum64() // whose last bytes mix badly: the finalizer of SplitMix64
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
