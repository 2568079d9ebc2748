package node

import (
	"fmt"
	"time"

	"github.com/edgeproxy/edgeproxy/wg"
)

const (
	// silentAfter is from when on a tunnel with keepalives is without a handshake,
	// of which it has one every two minutes.
	silentAfter = 4 * time.Minute
	mendFirst   = 20 * time.Second // for a first handshake to come about
	mendAgain   = time.Minute
)

// silence is of a POP that is alive, and with which there is no handshake.
type silence struct {
	again time.Time // when its peer is made anew
	told  bool
}

// mend makes anew the peers of POPs that are alive and have had no handshake
// for too long. WireGuard takes no handshake that is dated before the last one
// of the peer (a replay): of a machine whose clock was set back it would take
// none until the clock has caught up.
func (o *overlay) mend(now time.Time) error {
	if now.Sub(o.looked) < overlayEvery {
		return nil
	}
	o.looked = now
	peers, err := o.device.Peers()
	if err != nil {
		return err
	}
	if err := o.adjust(peers); err != nil {
		return err
	}
	silent := map[wg.Key]bool{}
	for _, s := range peers {
		silent[s.Key] = s.Handshake.IsZero() || now.Sub(s.Handshake) > silentAfter
	}
	alive := make(map[string]bool, len(o.roster.POPs))
	for _, p := range o.roster.POPs {
		alive[p.Name] = p.Alive
	}
	for _, p := range o.plan.Peers {
		if !silent[p.Key] || !alive[p.Name] || len(p.AllowedIPs) == 0 {
			delete(o.silent, p.Key)
			continue
		}
		s := o.silent[p.Key]
		if s == nil {
			o.silent[p.Key] = &silence{again: now.Add(mendFirst)}
			continue
		}
		if now.Before(s.again) {
			continue
		}
		if !s.told {
			o.log.Warn().Str("peer", p.Name).Stringer("endpoint", p.Endpoint).Msg("no handshake with a POP that is alive: is UDP open both ways, was a clock set back? Its tunnel is made anew")
		}
		s.again, s.told = now.Add(mendAgain), true
		if err := o.device.Configure([]wg.Change{{Peer: p, Remove: true}, {Peer: p, NewEndpoint: p.Endpoint.IsValid(), NewAllowedIPs: true, NewKeepalive: true}}); err != nil {
			return err
		}
	}
	return nil
}

// adjust undoes what somebody else has done to the device's peers, as by wg(8).
func (o *overlay) adjust(peers []wg.Status) error {
	changes := wg.Drift(peers, o.plan)
	for _, c := range changes {
		o.log.Warn().Str("peer", c.Name).Stringer("key", c.Key).Msg("somebody changed this peer of the device: set as planned")
	}
	return o.device.Configure(changes)
}

// silences are the tunnels that do not come about, for people.
func (o *overlay) silences() (texts []string) {
	for _, p := range o.plan.Peers {
		if s := o.silent[p.Key]; s != nil && s.told {
			texts = append(texts, fmt.Sprintf("%s: is alive, and no handshake comes about: is UDP open both ways between %s and port %d here, and was a clock set back?", p.Name, p.Endpoint, o.device.Port()))
		}
	}
	return texts
}
