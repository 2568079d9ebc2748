package node

import (
	"context"
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/mesh"
)

// faultsEvery is how often a POP looks whether the others know its faults.
const faultsEvery = 250 * time.Millisecond

// faultsAnew is how long what was written is left alone.
const faultsAnew = 5 * time.Second

// tellFaults keeps this POP's row of pop_status as its faults are, until ctx
// ends: what is not written now, as on a full disk, is written later. Where
// somebody else changes the row it is written anew, less often.
func (m *replication) tellFaults(ctx context.Context) {
	again := time.NewTicker(faultsEvery)
	defer again.Stop()
	var told any
	var wrote time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		want, now := mesh.FormatFaults(m.listeners.faulty()), time.Now()
		if len(m.waiting()) > 0 || m.untimed() || want == told && (now.Sub(wrote) < faultsAnew || m.toldOf(want)) {
			continue
		}
		if wrote = now; m.toldOf(want) {
			told = want // by the process before this one
			continue
		}
		err := m.store.Write(ctx, func(tx *sqlite.Tx) error {
			if want == nil {
				_, err := tx.Delete(sqlite.PopStatus, m.node)
				return err
			}
			return tx.Put(sqlite.PopStatus, m.node, map[string]any{"faults": want})
		})
		if err == nil {
			told = want
			m.picture.poke()
		}
	}
}

// toldOf says whether this POP's row says that.
func (m *replication) toldOf(want any) bool {
	snap := m.router.Snapshot()
	for _, p := range snap.Problems {
		if p.Table == sqlite.PopStatus.Name && p.ID == m.node {
			return false
		}
	}
	said, err := mesh.ParseFaults([]any{m.node, want})
	return err == nil && slices.Equal(said, faultsOf(snap.Faults, m.node))
}

// faultsOf are those of one POP.
func faultsOf(all []mesh.Fault, pop string) (own []mesh.Fault) {
	for _, f := range all {
		if f.POP == pop {
			own = append(own, f)
		}
	}
	return own
}

// faults are those of this POP, as they are now, and of the others that live, as
// they have told.
func (n *Node) faults() []mesh.Fault {
	all := append([]mesh.Fault{}, n.listeners.faulty()...)
	m := n.mesh()
	if m == nil {
		return all
	}
	alive := map[string]bool{}
	for _, x := range m.ring.Members() {
		alive[x.Name] = x.Status == membership.StatusAlive && !x.Self
	}
	for _, f := range n.router.Snapshot().Faults {
		if alive[f.POP] {
			all = append(all, f)
		}
	}
	return all
}

// certificates are this POP's, and what is wrong with their files.
func (n *Node) certificates() (all []api.Certificate) {
	if n.certs == nil {
		return nil
	}
	for _, c := range n.certs.Info() {
		all = append(all, api.Certificate{File: c.File, Names: c.Names, NotAfter: c.NotAfter})
	}
	for _, p := range n.certs.Problems() {
		all = append(all, api.Certificate{File: p.File, Problem: p.Message})
	}
	return all
}
