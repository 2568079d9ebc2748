//go:build linux

package main

import (
	"net/netip"
	"time"

	"github.com/edgeproxy/edgeproxy/wg"
)

// Processes of overlay take JSON lines on stdin and answer each with one on
// stdout; when stdin ends, they end.
const (
	roleEnd       = "end"       // streams, and seals where its end says so
	roleWireGuard = "wireguard" // the library alone
)

const (
	overlayPort = 5001 // of the backend, through WireGuard
	barePort    = 5002 // of the backend, beside it
)

// place is where one end is.
type place struct {
	End       end
	Backend   bool // else the client
	Interface string
	Private   [32]byte
	Public    wg.Key
	Bare      netip.Prefix // of the virtual interface
	Overlay   netip.Prefix
}

// inner is where the other end is reached through the mode's way.
func (p place) inner() netip.Addr {
	if p.End == bare {
		return p.Bare.Addr()
	}
	return p.Overlay.Addr()
}

func (p place) endpoint() netip.AddrPort { return netip.AddrPortFrom(p.Bare.Addr(), wg.Port) }

// order is one thing to do: what is set.
type order struct {
	Open   *opening
	Stream *streaming
	Count  bool          // how much has arrived
	Stop   bool          // the streams
	Ping   time.Duration // that long
}

type opening struct{ Self, Other place }

type streaming struct {
	Streams int
	Up      bool
}

type answer struct {
	Err   string        `json:",omitempty"`
	Bytes int64         `json:",omitempty"`
	At    time.Duration // since some time of that process
	Over  roundTrips    // through the mode's way
	Bare  roundTrips    // beside it
}

// roundTrips are of one byte there and one back.
type roundTrips struct {
	N        int
	P50, P99 time.Duration
}
