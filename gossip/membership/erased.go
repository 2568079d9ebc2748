package membership

import (
	"context"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// How often serf's list is held against memberlist's, and for how long a member
// may be leaving: it takes five seconds where it does.
const (
	relistInterval = 5 * time.Second
	mostLeaving    = 10 * time.Second
)

// relist puts serf's list right where memberlist knows better who is alive.
//
// A prune (Forget's, or of `serf force-leave -prune`) erases a member up to
// three seconds after it was told, without another look at whether it is alive;
// and where its word comes twice, the second is kept for whoever joins next
// under that name. A machine that came back in the meantime, or was never gone,
// would be in nobody's list, or leaving, until it is restarted.
//
// told is serf's own ear for what memberlist sees. It is given memberlist's own
// nodes, as there are no copies: where one changes its tags at that very moment
// serf may read half of them, until they are told again.
func (r *Ring) relist(ctx context.Context, s *serf.Serf, told memberlist.EventDelegate) {
	tick := time.NewTicker(relistInterval)
	defer tick.Stop()
	leaving := map[string]time.Time{} // since when
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.erased:
		case <-tick.C:
		}
		// memberlist's list first: it tells serf of a newcomer before it lists it.
		alive := s.Memberlist().Members()
		listed := map[string]serf.MemberStatus{}
		for _, m := range s.Members() {
			listed[m.Name] = m.Status
		}
		now, still := time.Now(), map[string]time.Time{}
		for _, n := range alive {
			status, known := listed[n.Name]
			if known && status != serf.StatusLeaving || n.Name == r.cfg.Node {
				continue
			}
			if known {
				since, before := leaving[n.Name]
				if !before {
					since = now
				}
				if now.Sub(since) < mostLeaving {
					still[n.Name] = since
					continue
				}
				told.NotifyLeave(n) // from leaving there is no other way back
			}
			r.log.Info().Str("peer", n.Name).Msg("member was forgotten and is alive: listed again")
			told.NotifyJoin(n)
			if !present(s, n.Name) { // it went meanwhile
				told.NotifyLeave(n)
			}
		}
		leaving = still
	}
}

// present says whether memberlist knows the node to be alive.
func present(s *serf.Serf, name string) bool {
	for _, n := range s.Memberlist().Members() {
		if n.Name == name {
			return true
		}
	}
	return false
}
