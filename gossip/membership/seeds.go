package membership

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const lookupTimeout = 5 * time.Second

// target is an address that may let us in.
type target struct {
	addr netip.AddrPort
	from string // the seed as written, or the member's name in the snapshot
}

// resolve looks the names up, all at once.
func (j *joiner) resolve(ctx context.Context, seeds []seed) (targets []target, why []error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found, errs := make([][]netip.Addr, len(seeds)), make([]error, len(seeds))
	var wg sync.WaitGroup
	for i, s := range seeds {
		if s.addr.IsValid() {
			found[i] = []netip.Addr{s.addr}
			continue
		}
		wg.Go(func() { found[i], errs[i] = j.ring.resolve(ctx, s.host) })
	}
	wg.Wait()
	for i, s := range seeds {
		switch {
		case errs[i] != nil:
			why = append(why, fmt.Errorf("%s: %s", s.text, reason(errs[i])))
		case len(found[i]) == 0:
			why = append(why, fmt.Errorf("%s: the name has no address", s.text))
		}
		j.last[s.text] = nil
		for _, a := range found[i] {
			at := netip.AddrPortFrom(a.Unmap(), s.port)
			j.last[s.text] = append(j.last[s.text], at)
			targets = append(targets, target{at, s.text})
		}
	}
	return targets, why
}

func (r *Ring) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if r.cfg.Resolve != nil {
		return r.cfg.Resolve(ctx, host)
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// reach finds out who answers, all at once: serf would wait for each in turn.
func (j *joiner) reach(ctx context.Context, targets []target) (open []target, why []error) {
	errs := make([]error, len(targets))
	var wg sync.WaitGroup
	for i, t := range targets {
		wg.Go(func() {
			c, err := j.gate.DialTimeout(t.addr.String(), j.gate.dial)
			if err != nil {
				errs[i] = fmt.Errorf("%s: %s: %s", t.from, t.addr, reason(err))
				return
			}
			_ = c.Close()
		})
	}
	wg.Wait()
	for i, t := range targets {
		if errs[i] == nil {
			open = append(open, t)
		} else if ctx.Err() == nil {
			why = append(why, errs[i])
		}
	}
	slices.SortFunc(why, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return open, why
}

// reason is an error without what differs at every attempt, like our own port.
func reason(err error) string {
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return dns.Err
	case errors.As(err, &op) && op.Err != nil:
		return op.Err.Error()
	}
	return err.Error()
}

// isSelf says whether an address is this node: the one it advertises, or one
// of this machine with the port that only it can have.
func (r *Ring) isSelf(a netip.AddrPort) bool {
	bound := r.Addr()
	switch {
	case a == r.Advertised() || a == bound:
		return true
	case r.cfg.Transport != nil || a.Port() != bound.Port() || !bound.Addr().IsUnspecified():
		return false
	}
	return a.Addr().IsLoopback() || slices.Contains(localAddrs(), a.Addr())
}
