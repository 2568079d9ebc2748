// Package wg plans the overlay: which POP has a WireGuard tunnel to which
// other one and to which plain device, and what goes through each.
//
//	roster, problems := wg.Settle(pops, devices, networks) // who holds which key and address
//	plan := wg.Layout{Topology: wg.FullMesh, Networks: networks}.Plan("pop-sa", roster)
//	changes := wg.Diff(before, plan) // for package wg/device
//
// Every POP computes its own plan from the same records, so that plans agree
// as far as the records and the views of who is alive do. WireGuard takes a
// packet only from the peer that its source is assigned to: so what goes to a
// POP, and what comes from it, crosses the same other POPs, by everybody's plan.
//
// The package knows no interface, socket, file or clock, and no private key.
package wg

import (
	"cmp"
	"encoding/base64"
	"errors"
	"net/netip"
	"slices"
	"time"
)

const (
	// MTU is wg-quick's for a path of 1,500 bytes: 80 are WireGuard's over IPv6.
	MTU = 1420
	// Port is where POPs hear each other unless told otherwise.
	Port = 51820
	// Keepalive keeps the mapping of a NAT open, which forgets after 30 s at the soonest.
	Keepalive = 25 * time.Second
)

// Key is a Curve25519 public key. The zero Key is none.
type Key [32]byte

// ParseKey reads base64, as wg(8) prints it.
func ParseKey(text string) (k Key, err error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != len(k) || len(text) != base64.StdEncoding.EncodedLen(len(k)) { // the decoder skips ends of lines
		return k, errors.New("want a WireGuard key, 32 bytes in base64, as \"wg pubkey\" prints it")
	}
	copy(k[:], raw)
	if k == (Key{}) {
		return k, errors.New("a key of zeros is none")
	}
	return k, nil
}

// String is base64, as wg(8) has it; empty for none.
func (k Key) String() string {
	if k == (Key{}) {
		return ""
	}
	return base64.StdEncoding.EncodeToString(k[:])
}

// Peer is what a device is told of another one.
type Peer struct {
	Name       string // of the POP or the plain device
	Key        Key
	Endpoint   netip.AddrPort // invalid: the peer comes by itself, and is answered where it came from
	AllowedIPs []netip.Prefix // sorted, no two peers have one; none: the peer is only expected
	Keepalive  time.Duration  // 0: off, as to one without an endpoint, who keeps its own way open
}

// Plan is what one POP's device should be.
type Plan struct {
	Addresses []netip.Prefix // the POP's own, each with its network's length
	Routes    []netip.Prefix // networks behind plain devices, sorted
	Peers     []Peer         // by key, no two alike
	Forwards  bool           // packets of others pass through here
}

// Change makes one peer of a device what a plan says.
type Change struct {
	Peer
	Remove        bool // the rest but the key counts for nothing
	NewEndpoint   bool // set it; else the peer may have roamed, and stays where it was last heard
	NewAllowedIPs bool // replace them
	NewKeepalive  bool
}

// Diff is what makes a device that follows one plan follow another: it names
// only peers that differ, those to remove last, so that what moves from one
// peer to another is never without.
func Diff(from, to Plan) []Change {
	var changes []Change
	old, i := from.Peers, 0
	var gone []Change
	for _, p := range to.Peers {
		for i < len(old) && old[i].Key.compare(p.Key) < 0 {
			gone = append(gone, Change{Peer: Peer{Name: old[i].Name, Key: old[i].Key}, Remove: true})
			i++
		}
		if i == len(old) || old[i].Key != p.Key {
			changes = append(changes, Change{Peer: p, NewEndpoint: p.Endpoint.IsValid(), NewAllowedIPs: true, NewKeepalive: true})
			continue
		}
		c := Change{
			Peer:          p,
			NewEndpoint:   p.Endpoint.IsValid() && old[i].Endpoint != p.Endpoint,
			NewAllowedIPs: !slices.Equal(old[i].AllowedIPs, p.AllowedIPs),
			NewKeepalive:  old[i].Keepalive != p.Keepalive,
		}
		if c.NewEndpoint || c.NewAllowedIPs || c.NewKeepalive {
			changes = append(changes, c)
		}
		i++
	}
	for ; i < len(old); i++ {
		gone = append(gone, Change{Peer: Peer{Name: old[i].Name, Key: old[i].Key}, Remove: true})
	}
	return append(changes, gone...)
}

// Drift is what makes a device follow a plan again that somebody else has changed.
// Where a peer has roamed to is its own affair.
func Drift(is []Status, plan Plan) []Change {
	endpoints := make(map[Key]netip.AddrPort, len(plan.Peers))
	for _, p := range plan.Peers {
		endpoints[p.Key] = p.Endpoint
	}
	from := Plan{Peers: make([]Peer, len(is))}
	for i, s := range is {
		allowed := slices.Clone(s.AllowedIPs)
		slices.SortFunc(allowed, comparePrefix)
		from.Peers[i] = Peer{Key: s.Key, Endpoint: endpoints[s.Key], AllowedIPs: allowed, Keepalive: s.Keepalive}
	}
	slices.SortFunc(from.Peers, func(a, b Peer) int { return a.Key.compare(b.Key) })
	return Diff(from, plan)
}

func (k Key) compare(o Key) int { return slices.Compare(k[:], o[:]) }

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// keepalive is for a peer that is dialed.
func keepalive(endpoint netip.AddrPort) time.Duration {
	if !endpoint.IsValid() {
		return 0
	}
	return Keepalive
}

// Status is what a device knows of a peer.
type Status struct {
	Key        Key
	Endpoint   netip.AddrPort
	AllowedIPs []netip.Prefix
	Handshake  time.Time // the last; zero: none yet
	Sent       int64     // bytes
	Received   int64
	Keepalive  time.Duration
}
