package identity

import (
	"bytes"
	"cmp"
	"slices"
)

// Merge joins what two POPs know. It is commutative, associative and
// idempotent, so POPs that have heard the same agree, in whatever order.
//
// A state that holds a key's latest register, or the latest primary, holds its
// secret if the result needs it: a key is live in every state that made it so.
func (r Keyring) Merge(o Keyring) Keyring { return r.merge(o, maxKeys) }

func (r Keyring) merge(o Keyring, limit int) Keyring {
	switch {
	case r.Empty() || r.Insecure() && !o.Empty():
		return o // the public key never stands beside another
	case o.Empty() || o.Insecure():
		return r
	}
	joined := r
	if c := cmp.Or(cmp.Compare(r.used, o.used), cmp.Compare(r.primary, o.primary)); c < 0 {
		joined.primary, joined.used = o.primary, o.used
	}
	joined.keys = nil
	for a, b := r.keys, o.keys; len(a) > 0 || len(b) > 0; {
		var e entry
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].id < b[0].id:
			e, a = a[0], a[1:]
		case len(a) == 0 || b[0].id < a[0].id:
			e, b = b[0], b[1:]
		default:
			e, a, b = latest(a[0], b[0]), a[1:], b[1:]
		}
		if !joined.live(e) {
			e.secret = Key{}
		}
		joined.keys = append(joined.keys, e)
	}
	return joined.pruned(limit)
}

// latest joins two registers of one key. At equal stamps removed wins. The
// secret is kept for now: the key may be the primary.
func latest(a, b entry) entry {
	winner := a
	if a.stamp < b.stamp || a.stamp == b.stamp && b.removed {
		winner = b
	}
	winner.secret = a.secret
	if bytes.Compare(a.secret.bytes(), b.secret.bytes()) < 0 { // zero, or a forged id
		winner.secret = b.secret
	}
	return winner
}

// pruned keeps the latest keys, by stamp, and the primary. As a stamp only ever
// grows, what is dropped here would be dropped from any later merge too.
func (r Keyring) pruned(limit int) Keyring {
	if len(r.keys) <= limit {
		return r
	}
	kept := slices.SortedFunc(slices.Values(r.keys), newestFirst)[:limit]
	if !slices.ContainsFunc(kept, func(e entry) bool { return e.id == r.primary }) {
		// Its own register is as forgotten as any other of its age; a state
		// that never had it must look the same.
		kept = append(kept, entry{id: r.primary, stamp: r.used, secret: r.Primary()})
	}
	slices.SortFunc(kept, func(a, b entry) int { return cmp.Compare(a.id, b.id) })
	r.keys = kept
	return r
}

func newestFirst(a, b entry) int {
	return cmp.Or(cmp.Compare(b.stamp, a.stamp), cmp.Compare(b.id, a.id))
}
