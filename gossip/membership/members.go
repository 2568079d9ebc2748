package membership

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/serf/serf"
)

// Serf's words for what a member may be.
const (
	StatusAlive   = "alive"
	StatusLeaving = "leaving"
	StatusLeft    = "left"
	StatusFailed  = "failed"
)

// viewAge is how long Members may hand out the same list where no event came:
// round trips change without one, and so does alive to leaving.
const viewAge = 250 * time.Millisecond

// Member is one node as this one sees it.
type Member struct {
	Name   string
	Addr   netip.AddrPort // what it advertises for gossip
	Status string
	Tags   map[string]string // shared: not to be written to
	RTT    time.Duration     // estimated from network coordinates, which take some probes to settle
	HasRTT bool
	Self   bool
}

// view is a list of members and when it was right.
type view struct {
	list    []Member
	changes uint64
	at      time.Time
}

// Members lists everyone known, this node included, by name; nil before
// Started. The slice is the caller's.
func (r *Ring) Members() []Member {
	changes, now := r.changes.Load(), time.Now()
	if v := r.members.Load(); v != nil && v.changes == changes && now.Sub(v.at) < viewAge {
		return slices.Clone(v.list)
	}
	r.mu.Lock()
	s := r.serf
	r.mu.Unlock()
	if s == nil {
		return nil
	}
	list := list(s, r.cfg.Node)
	r.members.Store(&view{list: list, changes: changes, at: now})
	return slices.Clone(list)
}

// Changed is sent to when something about the members has changed: look at
// Members again. Round trips change silently.
func (r *Ring) Changed() <-chan struct{} { return r.changed }

func list(s *serf.Serf, self string) []Member {
	all := s.Members()
	out := make([]Member, 0, len(all))
	mine, err := s.GetCoordinate()
	for _, m := range all {
		o := Member{Name: m.Name, Addr: addrPort(m.Addr, m.Port), Status: m.Status.String(), Tags: m.Tags, Self: m.Name == self}
		if c, ok := s.GetCachedCoordinate(m.Name); ok && err == nil && !o.Self && mine.IsCompatibleWith(c) {
			o.RTT, o.HasRTT = mine.DistanceTo(c), true
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// alone says whether no other member is alive.
func alone(list []Member) bool {
	return !slices.ContainsFunc(list, func(m Member) bool { return !m.Self && m.Status == StatusAlive })
}

// observe logs who comes and goes and keeps the snapshot.
func (r *Ring) observe(ctx context.Context) {
	before := map[string]Member{}
	file := snapshotFile{path: r.cfg.Snapshot}
	for {
		now := r.Members()
		r.logChanges(before, now)
		before = make(map[string]Member, len(now))
		for _, m := range now {
			before[m.Name] = m
		}
		if err := file.keep(now); err != nil {
			r.log.Warn().Err(err).Msg("members not remembered")
		}
		select {
		case <-ctx.Done():
			return
		case <-r.watch:
		}
		// A burst of changes is one entry and one file.
		t := time.NewTimer(viewAge)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

func (r *Ring) logChanges(before map[string]Member, now []Member) {
	seen := make(map[string]bool, len(now))
	for _, m := range now {
		seen[m.Name] = true
		b, known := before[m.Name]
		if m.Self || known && b.Status == m.Status && b.Addr == m.Addr {
			continue
		}
		r.log.Info().Str("peer", m.Name).Stringer("addr", m.Addr).Str("was", b.Status).Str("status", m.Status).Msg("member changed")
	}
	for name, m := range before {
		if !seen[name] {
			r.log.Info().Str("peer", name).Stringer("addr", m.Addr).Str("was", m.Status).Str("status", "forgotten").Msg("member changed")
		}
	}
}
