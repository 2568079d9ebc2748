package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/wg"
)

// WG implements api.Overlay.
func (n *Node) WG(context.Context) (api.WG, error) { return n.overlay.view() }

func (o *overlay) view() (api.WG, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v := api.WG{Mode: "off", Addresses: []string{}, Problems: []string{}, Peers: []api.WGPeerStatus{}}
	if o.off() {
		return v, nil
	}
	v.Mode, v.Interface, v.Port, v.Topology, v.Error = "", o.cfg.WGInterface, uint16(o.cfg.WGPort), o.cfg.WGTopology, o.broken
	now, next := o.keys.public()
	v.PublicKey, v.NextKey = now.String(), next.String()
	for _, p := range o.problems {
		v.Problems = append(v.Problems, p.String())
	}
	if why := o.unsaid.Load(); why != nil {
		v.Problems = append(v.Problems, *why)
	}
	if o.noSix != "" {
		v.Problems = append(v.Problems, "without IPv6: "+o.noSix)
	}
	v.Hub = o.layout.Hub(o.node, o.roster)
	if o.device == nil {
		return v, nil
	}
	v.Mode = string(o.mode)
	v.Problems = append(v.Problems, o.silences()...)
	v.Addresses = texts(o.addrs)
	peers, err := o.device.Peers()
	if err != nil {
		return v, err
	}
	names := o.names()
	for _, s := range peers {
		p := api.WGPeerStatus{
			Name: names[s.Key], PublicKey: s.Key.String(), AllowedIPs: texts(s.AllowedIPs), Received: s.Received, Sent: s.Sent,
		}
		if s.Endpoint.IsValid() {
			p.Endpoint = s.Endpoint.String()
		}
		if !s.Handshake.IsZero() {
			p.Handshake = s.Handshake.UTC()
		}
		p.Kind, p.Region = kindOf(o.roster, p.Name)
		if e := o.echoes[p.Name]; e != nil && e.sent > 0 && len(s.AllowedIPs) > 0 {
			p.Loss = new(e.loss())
			if e.rtt > 0 {
				p.RTT = new(milliseconds(e.rtt))
			}
		}
		v.Peers = append(v.Peers, p)
	}
	slices.SortFunc(v.Peers, func(a, b api.WGPeerStatus) int {
		return strings.Compare(a.Name+"\x00"+a.PublicKey, b.Name+"\x00"+b.PublicKey)
	})
	return v, nil
}

// summary is the overlay in a line; empty where it is off.
func (o *overlay) summary(now time.Time) string {
	v, err := o.view()
	if v.Mode == "off" {
		return ""
	}
	if err != nil {
		return "does not answer: " + err.Error()
	}
	up, all := 0, 0
	for _, p := range v.Peers {
		if len(p.AllowedIPs) == 0 {
			continue // a key that is changed to, or from
		}
		if all++; !p.Handshake.IsZero() && now.Sub(p.Handshake) < silentAfter {
			up++
		}
	}
	text := fmt.Sprintf("%s, %d of %d tunnels up", v.Mode, up, all)
	if v.Mode == "" {
		text = "down"
	}
	if v.Error != "" {
		text += ": " + v.Error
	}
	if n := len(v.Problems); n > 0 {
		text += fmt.Sprintf("; %d problems, which \"edgeproxy wg status\" names", n)
	}
	return text
}

func texts[T fmt.Stringer](list []T) []string {
	all := make([]string, len(list))
	for i, x := range list {
		all[i] = x.String()
	}
	return all
}

// ExportWG implements api.Overlay. Also a POP without an overlay of its own
// knows those of the others.
func (n *Node) ExportWG(_ context.Context, name string) (api.WGFile, error) {
	o := n.overlay
	rows := o.rows.Load()
	roster, _ := wg.Settle(rows.pops, rows.devices, o.networks, o.settled())
	for i := range roster.POPs {
		roster.POPs[i].Alive = true // a file is not for the moment
	}
	file, ok := o.layout.Export(name, roster, uint16(o.cfg.WGPort), o.cfg.WGMTU)
	if !ok {
		return api.WGFile{}, api.NotFound("POP or peer in the overlay", name)
	}
	return api.WGFile{Name: name, File: file}, nil
}

const (
	announceWait  = 10 * time.Second // for the other POPs to know the next key
	announceCheck = 20 * time.Millisecond
)

// RotateWG implements api.Overlay.
func (n *Node) RotateWG(ctx context.Context) (api.WGRotation, error) {
	m, err := n.part()
	if err != nil {
		return api.WGRotation{}, err
	}
	if n.overlay.off() {
		return api.WGRotation{}, fmt.Errorf("%w: the overlay is off: start this POP with --wg", api.ErrConflict)
	}
	// Also where whoever asked does not wait: half of it is none.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*announceWait)
	defer cancel()
	return n.overlay.rotate(ctx, m)
}

// rotate changes this POP's key: the others are told the next one, and take
// packets of either; then the device changes to it, and then the row. A POP
// that was not told follows when it hears of the row.
func (o *overlay) rotate(ctx context.Context, m *replication) (r api.WGRotation, err error) {
	if !o.rotating.TryLock() {
		return r, fmt.Errorf("%w: the key is being changed already", api.ErrConflict)
	}
	defer o.rotating.Unlock()
	o.mu.Lock()
	up := o.device != nil
	o.mu.Unlock()
	if !up {
		return r, fmt.Errorf("%w: the overlay does not work now: \"edgeproxy wg status\" says why", api.ErrConflict)
	}
	if err := o.keys.begin(); err != nil {
		return r, err
	}
	old, next := o.keys.public()
	o.poke() // which has the row written
	if err := o.told(ctx, m, old, next); err != nil {
		return r, errors.Join(fmt.Errorf("%w: the old key stays; try again", err), o.keys.cancel())
	}
	if err := o.promote(); err != nil {
		return r, err
	}
	o.poke()
	m.retagSoon()
	if err := o.told(ctx, m, next, wg.Key{}); err != nil {
		o.log.Warn().Err(err).Msg("the overlay's new key is in use, and not known to all yet")
	}
	r = api.WGRotation{Old: old.String(), New: next.String(), Peers: []string{}}
	for _, d := range o.rows.Load().devices {
		if d.Tunnels(o.node) {
			r.Peers = append(r.Peers, d.Name)
		}
	}
	o.log.Info().Str("old", r.Old).Str("new", r.New).Msg("overlay key changed")
	return r, nil
}

// promote changes the device to the next key.
func (o *overlay) promote() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return fmt.Errorf("%w: this process ends, and the key is the next one's", api.ErrConflict)
	}
	if err := o.keys.promote(); err != nil || o.device == nil {
		return err
	}
	return o.device.SetPrivateKey(o.keys.private())
}

// told waits until this POP's row has these keys, and then until every POP on a
// stream has what was written here up to then.
func (o *overlay) told(ctx context.Context, m *replication, now, next wg.Key) error {
	ctx, cancel := context.WithTimeout(ctx, announceWait)
	defer cancel()
	var heads crdt.Heads // of the time when the row was there
	for {
		lacking := "this POP's own table"
		if own, _ := o.rows.Load().own(o.node); heads == nil && own.Key == now && own.Next == next {
			var err error
			if heads, err = m.store.Heads(ctx); err != nil {
				return err
			}
		}
		if heads != nil {
			lacking = m.lacks(heads)
		}
		if lacking == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s has not heard of the key within %s", api.ErrConflict, lacking, announceWait)
		case <-time.After(announceCheck):
		}
	}
}

// lacks is a POP on a stream that lacks something of what was written here up to
// these heads; empty: none does.
func (m *replication) lacks(heads crdt.Heads) string {
	for _, p := range m.streams.Peers() {
		for origin, seq := range heads {
			if origin.Node == m.node && p.Connected && p.Heads[origin] < seq {
				return p.Node
			}
		}
	}
	return ""
}
