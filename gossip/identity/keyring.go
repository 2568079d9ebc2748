package identity

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Keyring is the set of cluster keys that a POP accepts: a document that POPs
// exchange and merge, so that one that was off during a rotation learns of it
// when it comes back. It is an immutable value; the zero Keyring has no keys.
//
// Each key is a register of when it was last added, used or removed, latest
// wins. Above them stands one more, the primary: the key last made so. The
// primary is live whatever its own register says, so a keyring never has none.
//
//	         Add             Use
//	unknown -----> accepted -----> primary
//	                ^  | ^            |
//	            Add |  | +------------+ another is used
//	                |  v Remove
//	               removed: its secret is forgotten
type Keyring struct {
	keys    []entry // by id, each once
	primary string  // id
	used    int64   // stamp of its Use
}

type entry struct {
	id      string
	stamp   int64 // unix milliseconds, but always above what its writer had seen
	removed bool
	secret  Key // zero where removed, unless it is the primary's
}

// MaxLive is how many keys Add accepts at a time. Merging may give more.
const MaxLive = 16

// maxKeys is how many keys a keyring remembers, removed ones too: beyond it the
// longest untouched is forgotten. A POP that was off for so many changes could
// bring a removed key back.
const maxKeys = 128

const (
	floorStamp = 1       // of a POP's first key: anything that the mesh did later beats it
	maxStamp   = 1 << 48 // ms: the year 10889
)

// What Add, Use and Remove refuse. The text does not repeat the id: who mistakes
// a key for its id would find the key in a log.
var (
	ErrUnknownKey = errors.New("no cluster key of that id is accepted: see edgeproxy keys list")
	ErrPrimaryKey = errors.New("the primary cluster key cannot be removed: use another one first")
	ErrInsecure   = errors.New("a mesh without a cluster key has none to change: start its POPs with one")
	ErrFull       = fmt.Errorf("%d cluster keys are accepted already: remove one first", MaxLive)
)

// NewKeyring accepts one key. It yields to all that other POPs know of that
// key: a new POP that was given an old one turns no rotation back.
func NewKeyring(k Key) Keyring {
	id := k.ID()
	return Keyring{keys: []entry{{id: id, stamp: floorStamp, secret: k}}, primary: id, used: floorStamp}
}

// Empty says whether it is the zero Keyring.
func (r Keyring) Empty() bool { return len(r.keys) == 0 }

// Insecure says whether it holds the public key, which is then its only one.
func (r Keyring) Insecure() bool { return r.primary == Insecure.ID() }

// Primary is the key that this POP encrypts with and prefers; the zero Key if
// there is none.
func (r Keyring) Primary() Key {
	k, _ := r.Key(r.primary)
	return k
}

// Key is the live key of that id.
func (r Keyring) Key(id string) (Key, bool) {
	i, ok := r.find(id)
	if !ok || !r.live(r.keys[i]) {
		return Key{}, false
	}
	return r.keys[i].secret, true
}

// Live are the keys that are accepted, in order of preference: the primary,
// then the others, newest first.
func (r Keyring) Live() []Key {
	var keys []Key
	for _, i := range r.List() {
		if k, ok := r.Key(i.ID); ok {
			keys = append(keys, k)
		}
	}
	return keys
}

// KeyInfo is what may be shown of a key.
type KeyInfo struct {
	ID      string
	Primary bool
	Removed bool
	Since   int64 // unix milliseconds of its last change; 1: since the POP's first start
}

// List describes all keys: the primary, the accepted, the removed; newest first.
func (r Keyring) List() []KeyInfo {
	rank := func(e entry) int {
		switch {
		case e.id == r.primary:
			return 0
		case r.live(e):
			return 1
		}
		return 2
	}
	sorted := slices.SortedFunc(slices.Values(r.keys), func(a, b entry) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return newestFirst(a, b)
	})
	infos := make([]KeyInfo, len(sorted))
	for i, e := range sorted {
		infos[i] = KeyInfo{ID: e.id, Primary: e.id == r.primary, Removed: !r.live(e), Since: e.stamp}
		if e.id == r.primary {
			infos[i].Since = r.used
		}
	}
	return infos
}

// Add accepts one more key. One that is live already changes nothing; a
// removed one comes back. Errors: ErrFull, ErrInsecure.
func (r Keyring) Add(k Key, now int64) (Keyring, error) {
	if _, ok := r.Key(k.ID()); ok {
		return r, nil
	}
	if len(r.Live()) >= MaxLive {
		return r, ErrFull
	}
	return r.add(k, now)
}

func (r Keyring) add(k Key, now int64) (Keyring, error) {
	if k == Insecure || r.Insecure() {
		return r, ErrInsecure
	}
	stamp, err := r.next(now)
	if err != nil {
		return r, err
	}
	return r.with(entry{id: k.ID(), stamp: stamp, secret: k}).pruned(maxKeys), nil
}

// Use makes a live key the primary. The one before stays accepted until it is
// removed. Errors: ErrUnknownKey.
func (r Keyring) Use(id string, now int64) (Keyring, error) {
	k, ok := r.Key(id)
	if !ok {
		return r, ErrUnknownKey
	}
	if id == r.primary {
		return r, nil
	}
	stamp, err := r.next(now)
	if err != nil {
		return r, err
	}
	// Someone may have removed the primary before it became that. This must
	// not come true now, when POPs that have not heard of the new one need it.
	if i, ok := r.find(r.primary); ok && r.keys[i].removed {
		r = r.with(entry{id: r.primary, stamp: stamp, secret: r.keys[i].secret})
	}
	r = r.with(entry{id: id, stamp: stamp, secret: k})
	r.primary, r.used = id, stamp
	return r.pruned(maxKeys), nil
}

// Remove ends the acceptance of a key and forgets its secret. One that is
// removed already changes nothing. Errors: ErrUnknownKey, ErrPrimaryKey.
func (r Keyring) Remove(id string, now int64) (Keyring, error) {
	i, ok := r.find(id)
	switch {
	case !ok:
		return r, ErrUnknownKey
	case id == r.primary:
		return r, ErrPrimaryKey
	case r.keys[i].removed:
		return r, nil
	}
	stamp, err := r.next(now)
	if err != nil {
		return r, err
	}
	return r.with(entry{id: id, stamp: stamp, removed: true}).pruned(maxKeys), nil
}

// Equal says whether both hold the same keys, stamps and primary.
func (r Keyring) Equal(o Keyring) bool {
	return r.primary == o.primary && r.used == o.used && slices.Equal(r.keys, o.keys)
}

// String names the live keys, by id.
func (r Keyring) String() string { return fmt.Sprint(r.Live()) }

// Format prints ids for every verb, so that no %#v shows a secret.
func (r Keyring) Format(f fmt.State, _ rune) { fmt.Fprint(f, r.Live()) }

func (r Keyring) live(e entry) bool { return !e.removed || e.id == r.primary }

func (r Keyring) find(id string) (int, bool) {
	return slices.BinarySearchFunc(r.keys, id, func(e entry, id string) int { return strings.Compare(e.id, id) })
}

// with replaces or inserts an entry in a copy.
func (r Keyring) with(e entry) Keyring {
	i, ok := r.find(e.id)
	r.keys = slices.Clone(r.keys)
	if ok {
		r.keys[i] = e
	} else {
		r.keys = slices.Insert(r.keys, i, e)
	}
	return r
}

// next is the stamp of a change made now: above everything seen, so that a
// slow clock still wins its own later changes.
func (r Keyring) next(now int64) (int64, error) {
	stamp := max(now, r.used+1)
	for _, e := range r.keys {
		stamp = max(stamp, e.stamp+1)
	}
	if stamp > maxStamp {
		return 0, errors.New("the keyring has no stamp above the last one, which a POP with a wild clock has set: give all POPs a new cluster key and remove their keyring files")
	}
	return stamp, nil
}
