// Package feed is a log of the latest states of things, for readers that come,
// go, fall behind and come back.
//
//	l := feed.NewLog("sa-1f2e3d4c", incarnation)
//	l.Put(feed.Key{Kind: feed.Backend, Name: "sa-node-1"}, "myapp", state, now)
//	r := l.Open(nil, feed.Filter{})           // everything, then what changes
//	for _, e := range l.Next(r, 64) {
//		fmt.Println(e.Type, e.ID, e.Key)        // change sa-1f2e3d4c/17/1 {backend sa-node-1}
//	}
//	r = l.Open(&id, feed.Filter{})             // goes on behind that event
//
// Each change of a key's state gets the next arrival number. Of every key only
// the latest state is kept, in order of arrival, so a reader is a number: it has
// seen what matters of all arrivals up to it. States that were overwritten before
// a reader came to them it never gets; it is told how many. A key that is
// deleted is a state too, until there are too many or it is too old; whoever may
// have missed one that is forgotten begins anew, with a Reset.
//
// So without a Reset nothing is seen twice, and the last state of no key is
// missed. A Log is not safe for concurrent use, and knows no clock. What a state
// is made of is its owner's business: bytes that never change once they are put.
package feed

import (
	"bytes"
	"cmp"
	"slices"
	"time"
)

// Kind is what sort of thing a key names.
type Kind string

// The kinds.
const (
	Backend Kind = "backend"
	Service Kind = "service"
	Health  Kind = "health" // of a backend, as checks have it
	Member  Kind = "member"
)

// Kinds are all there are.
var Kinds = []Kind{Backend, Service, Health, Member}

// Key names a thing.
type Key struct {
	Kind Kind
	Name string
}

// Bounds of what is remembered of keys that are no more.
const (
	mostDeleted = 10_000
	keepDeleted = time.Hour
)

// Log holds the latest state of every key.
type Log struct {
	node    string
	epoch   uint64
	last    uint64 // arrival number of the latest change
	horizon uint64 // of the latest deletion that is forgotten
	keys    map[Key]*entry
	left    map[place]*entry // as apps have them that keys do not belong to any more
	slots   []slot           // by arrival
	dead    int              // of slots
	graves  []grave
	readers map[*Reader]bool
}

// entry is a key with its latest state.
type entry struct {
	Key
	arrival uint64 // 0: forgotten
	app     string
	state   []byte
	deleted bool
	moved   bool // it is another app's now: deleted, but only for readers of this app
}

// place is where a key was.
type place struct {
	Key
	app string
}

// slot is where an entry was put. It is dead where that was put again since.
type slot struct {
	arrival uint64
	*entry
}

func (s slot) dead() bool { return s.entry.arrival != s.arrival }

// grave is an entry that was deleted, or is another app's.
type grave struct {
	slot
	at time.Time
}

// NewLog knows nothing. The epoch tells this log from earlier ones of the node.
func NewLog(node string, epoch uint64) *Log {
	return &Log{node: node, epoch: epoch, keys: map[Key]*entry{}, left: map[place]*entry{}, readers: map[*Reader]bool{}}
}

// Put says what a key's state is, and of which app it is, if of any. It says
// whether that is news. The state is kept as it is.
func (l *Log) Put(k Key, app string, state []byte, now time.Time) bool {
	e := l.keys[k]
	if e != nil && !e.deleted && e.app == app && bytes.Equal(e.state, state) {
		return false
	}
	if e != nil && e.app != app {
		l.leave(e, now)
		e = nil
	}
	if e == nil {
		e = &entry{Key: k, app: app}
		l.keys[k] = e
	}
	if was := l.left[place{k, app}]; was != nil { // it comes back
		l.overtake(was)
		was.arrival = 0
		l.dead++
		delete(l.left, place{k, app})
	}
	l.arrive(e)
	e.state, e.deleted = state, false
	l.forget(now)
	return true
}

// Delete says that a key is no more, and whether that is news.
func (l *Log) Delete(k Key, now time.Time) bool {
	e := l.keys[k]
	if e == nil || e.deleted {
		return false
	}
	l.arrive(e)
	e.state, e.deleted = nil, true
	l.graves = append(l.graves, grave{slot{e.arrival, e}, now})
	l.forget(now)
	return true
}

// Names are the keys of a kind that have a state, in no order.
func (l *Log) Names(kind Kind) []string {
	var names []string
	for k, e := range l.keys {
		if k.Kind == kind && !e.deleted {
			names = append(names, k.Name)
		}
	}
	return names
}

// arrive gives an entry the next number, and notes who has missed the last one.
func (l *Log) arrive(e *entry) {
	if e.arrival != 0 {
		l.overtake(e)
	}
	l.put(e)
}

func (l *Log) overtake(e *entry) {
	for r := range l.readers {
		r.overtaken(e, l.last+1)
	}
}

func (l *Log) put(e *entry) {
	if e.arrival != 0 {
		l.dead++
	}
	l.last++
	e.arrival = l.last
	l.slots = append(l.slots, slot{e.arrival, e})
	if l.dead > 64 && l.dead > len(l.slots)/2 {
		l.slots = slices.DeleteFunc(l.slots, slot.dead)
		l.dead = 0
	}
}

// leave makes the entry what readers of its app have of it, once: its key is
// about to arrive as another app's. Where it was deleted they have that already,
// from then.
func (l *Log) leave(e *entry, now time.Time) {
	alive, next := !e.deleted, l.last+1
	if alive {
		next++
	}
	for r := range l.readers {
		if alive || r.filter.App == "" {
			r.overtaken(e, next)
		}
	}
	if alive {
		l.put(e)
		l.graves = append(l.graves, grave{slot{e.arrival, e}, now})
	}
	e.state, e.deleted, e.moved = nil, true, true
	l.left[place{e.Key, e.app}] = e
}

// forget drops deletions that are too many or too old.
func (l *Log) forget(now time.Time) {
	for len(l.graves) > 0 {
		g := l.graves[0]
		if !g.dead() {
			if len(l.graves) <= mostDeleted && now.Sub(g.at) <= keepDeleted {
				return
			}
			if g.moved {
				delete(l.left, place{g.Key, g.app})
			} else {
				delete(l.keys, g.Key)
			}
			l.horizon = g.slot.arrival
			g.entry.arrival = 0
			l.dead++
		}
		l.graves[0] = grave{}
		l.graves = l.graves[1:]
	}
}

// after is the index of the first slot behind an arrival number.
func (l *Log) after(arrival uint64) int {
	i, found := slices.BinarySearchFunc(l.slots, arrival, func(s slot, n uint64) int { return cmp.Compare(s.arrival, n) })
	if found {
		i++
	}
	return i
}
