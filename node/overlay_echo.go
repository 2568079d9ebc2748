package node

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/wg"
	"github.com/edgeproxy/edgeproxy/wg/device"
)

const (
	echoEvery   = 2 * time.Second
	echoTimeout = 1500 * time.Millisecond
	echoWindow  = 32 // the last requests that the loss is of; as many bits as below
	echoAtOnce  = 64
)

// echo is what the last echo requests (ICMP) to a neighbour in the overlay came to.
type echo struct {
	lost uint32 // bit by bit, the last one lowest
	sent int    // at most echoWindow
	rtt  time.Duration
}

func (e *echo) note(rtt time.Duration, err error) {
	e.lost <<= 1
	e.sent = min(e.sent+1, echoWindow)
	if err != nil {
		e.lost |= 1
	} else {
		e.rtt = rtt
	}
}

// loss is the share of requests without an answer.
func (e *echo) loss() float64 {
	n := 0
	for i := range e.sent {
		n += int(e.lost >> i & 1)
	}
	return float64(n) / float64(e.sent)
}

// echo asks every neighbour for an echo now and then, until ctx ends.
func (o *overlay) echo(ctx context.Context) {
	ticker := time.NewTicker(echoEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		d, targets := o.neighbours()
		var all sync.WaitGroup
		slots := make(chan struct{}, echoAtOnce)
		for name, addr := range targets {
			slots <- struct{}{}
			all.Go(func() {
				defer func() { <-slots }()
				ctx, cancel := context.WithTimeout(ctx, echoTimeout)
				defer cancel()
				rtt, err := d.Ping(ctx, addr)
				o.mu.Lock()
				defer o.mu.Unlock()
				if o.echoes[name] == nil {
					o.echoes[name] = &echo{}
				}
				o.echoes[name].note(rtt, err)
			})
		}
		all.Wait()
	}
}

// neighbours are the addresses of those with whom there is a tunnel.
func (o *overlay) neighbours() (*device.Device, map[string]netip.Addr) {
	o.mu.Lock()
	defer o.mu.Unlock()
	targets := map[string]netip.Addr{}
	if o.device == nil {
		return nil, targets
	}
	peers, err := o.device.Peers()
	if err != nil {
		return nil, targets
	}
	names := o.names()
	tunnels := make(map[string]bool, len(peers))
	for _, s := range peers { // one that was never heard loses nothing
		name := names[s.Key]
		tunnels[name] = tunnels[name] || len(s.AllowedIPs) > 0 && !s.Handshake.IsZero()
	}
	add := func(name string, six, four netip.Addr) {
		if six.IsValid() && tunnels[name] && o.noSix == "" {
			targets[name] = six
		} else if four.IsValid() && tunnels[name] {
			targets[name] = four
		}
	}
	for _, p := range o.roster.POPs {
		add(p.Name, p.Six, p.Four)
	}
	for _, d := range o.roster.Devices {
		add(d.Name, d.Six, d.Four)
	}
	for name := range o.echoes {
		if _, still := targets[name]; !still {
			delete(o.echoes, name)
		}
	}
	return o.device, targets
}

// names are those behind the keys of the plan.
func (o *overlay) names() map[wg.Key]string {
	names := make(map[wg.Key]string, len(o.plan.Peers))
	for _, p := range o.plan.Peers {
		names[p.Key] = p.Name
	}
	return names
}

// kindOf says whether a name is a POP's or a plain device's, and its region.
func kindOf(r wg.Roster, name string) (kind, region string) {
	for _, p := range r.POPs {
		if p.Name == name {
			return "pop", p.Region
		}
	}
	for _, d := range r.Devices {
		if d.Name == name {
			return "peer", d.Region
		}
	}
	return "", ""
}
