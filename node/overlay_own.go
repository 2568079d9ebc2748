package node

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/wg"
)

// withdraw has this POP's row removed, of a time when the overlay was on.
func (o *overlay) withdraw() {
	if _, there := o.rows.Load().own(o.node); there {
		o.ask(&wg.POP{})
	}
}

// speak has this POP's row written where it is not what it should be.
func (o *overlay) speak(m *replication, rows *overlayRows, roster wg.Roster, members []membership.Member) {
	now, next := o.keys.public()
	old, there := rows.own(o.node)
	own := old
	own.Name, own.Region, own.Key, own.Next = o.node, o.cfg.Region, now, next
	own.Six, own.Topology, own.Endpoint = o.six(), o.layout.Topology, o.endpoint(members)
	own.Alive, own.Changed = false, false
	if len(m.waiting()) == 0 { // else it does not know yet what others have
		held := slices.ContainsFunc(roster.POPs, func(p wg.POP) bool { return p.Name == o.node && p.Four.IsValid() })
		if !held {
			own.Four = o.networks.POPFour(o.node, rows.taken(o.node))
		}
	}
	if own.Claimed == 0 {
		if m.untimed() {
			return // a claim with a wrong date would hold against earlier ones
		}
		own.Claimed = m.now()
	}
	if there && own == old {
		o.ask(nil)
		return
	}
	o.ask(&own)
}

// endpoint is where the others send to: the setting's, else the address that
// this POP has for them in the ring.
func (o *overlay) endpoint(members []membership.Member) netip.AddrPort {
	switch {
	case o.cfg.WGEndpoint == "none":
		return netip.AddrPort{}
	case o.cfg.WGEndpoint != "":
		at, _ := netip.ParseAddrPort(o.cfg.WGEndpoint) // package config has checked it
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	for _, x := range members {
		if x.Self && x.Addr.IsValid() {
			return netip.AddrPortFrom(x.Addr.Addr(), o.device.Port())
		}
	}
	return netip.AddrPort{}
}

// ask says what this POP's row should be, to whoever may write: the part of
// the POP that has the database, and that can be stuck with it.
func (o *overlay) ask(row *wg.POP) {
	if old := o.want.Swap(row); row == nil || old != nil && *old == *row {
		return
	}
	select {
	case o.wanted <- struct{}{}:
	default:
	}
}

// write writes this POP's row when it is asked for, until ctx ends.
func (o *overlay) write(ctx context.Context, m *replication) {
	again := time.NewTicker(overlayEvery) // what could not be written, and what a part before this one was asked for
	defer again.Stop()
	for {
		if row := o.want.Load(); row != nil {
			err := m.store.Write(ctx, func(tx *sqlite.Tx) error { return putOverlayRow(tx, o.node, row) })
			if ctx.Err() != nil {
				return
			}
			o.said(err)
			if err == nil {
				o.want.CompareAndSwap(row, nil)
				m.picture.poke()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-o.wanted:
		case <-again.C:
		}
	}
}

// said notes whether this POP's row is written.
func (o *overlay) said(err error) {
	if err == nil {
		o.unsaid.Store(nil)
		return
	}
	text := "this POP's row is not written yet: " + err.Error()
	if old := o.unsaid.Swap(&text); old == nil || *old != text {
		o.log.Warn().Err(err).Msg("this POP's row of the overlay is not written yet")
	}
}

func putOverlayRow(tx *sqlite.Tx, node string, row *wg.POP) error {
	if row.Name == "" {
		_, err := tx.Delete(sqlite.WGPops, node)
		return err
	}
	return tx.Put(sqlite.WGPops, node, map[string]any{
		"region": row.Region, "public_key": row.Key.String(), "next_key": null(row.Next.String()),
		"address": nullAddr(row.Four), "address6": nullAddr(row.Six), "endpoint": nullAddrPort(row.Endpoint),
		"topology": string(row.Topology), "claimed_ms": row.Claimed,
	})
}

func null(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func nullAddr(a netip.Addr) any {
	if !a.IsValid() {
		return nil
	}
	return a.String()
}

func nullAddrPort(a netip.AddrPort) any {
	if !a.IsValid() {
		return nil
	}
	return a.String()
}
