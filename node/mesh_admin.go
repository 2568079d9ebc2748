package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/gossip/identity"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/mesh"
)

// errNoMesh is what a POP with a read-only database answers.
var errNoMesh = fmt.Errorf("%w: the database is read-only, so this POP takes no part in a mesh", api.ErrUnavailable)

// part is the POP's part in the mesh.
func (n *Node) part() (*replication, error) {
	m := n.mesh()
	if m == nil {
		return nil, errNoMesh
	}
	return m, nil
}

// Members implements api.Mesh.
func (n *Node) Members(context.Context) ([]api.Member, error) {
	m, err := n.part()
	if err != nil {
		return nil, err
	}
	return m.members(), nil
}

func (m *replication) members() []api.Member {
	all := []api.Member{}
	for _, x := range m.ring.Members() {
		view := api.Member{Name: x.Name, Region: x.Tags[tagRegion], Addr: x.Addr.String(), Status: x.Status, Tags: x.Tags}
		if x.HasRTT || x.Self {
			ms := float64(x.RTT) / float64(time.Millisecond)
			view.RTT = &ms
		}
		all = append(all, view)
	}
	return all
}

// forgotten takes a POP off the roster that was forgotten by command on some
// POP: the deletion of its key is how the others hear of it.
func (m *replication) forgotten(name string) {
	alive := func(x membership.Member) bool {
		return x.Name == name && (x.Status == membership.StatusAlive || x.Status == membership.StatusLeaving)
	}
	if name == m.node || slices.ContainsFunc(m.ring.Members(), alive) {
		return
	}
	if err := m.roster.forget(name); err != nil {
		m.log.Error().Err(err).Msg("the POPs known cannot be kept")
	}
}

// Forget implements api.Mesh.
func (n *Node) Forget(ctx context.Context, name string) error {
	m, err := n.part()
	if err != nil {
		return err
	}
	if name == m.node {
		return fmt.Errorf("%w: %s is this POP itself: \"edgeproxy leave\" takes it out of the mesh", api.ErrConflict, name)
	}
	err = m.ring.Forget(name)
	known := err == nil
	switch {
	case errors.Is(err, membership.ErrAlive) && m.refused(name):
		// Another machine under the name, which is kept out by the key of the first.
	case errors.Is(err, membership.ErrAlive):
		return fmt.Errorf("%w: %w", api.ErrConflict, err)
	case err != nil && !errors.Is(err, membership.ErrUnknownMember):
		return err
	}
	// Known to the roster or by its key only, after a restart.
	for _, p := range m.roster.names() {
		known = known || p == name
	}
	if err := m.roster.forget(name); err != nil {
		return err
	}
	m.streams.SetPeers(m.roster.list())
	m.pins.forget(name)
	err = m.store.Write(ctx, func(tx *sqlite.Tx) error {
		pinned, err := tx.Delete(sqlite.PopKeys, name)
		known = known || pinned
		if err == nil {
			_, err = tx.Delete(sqlite.WGPops, name)
		}
		if err == nil {
			_, err = tx.Delete(sqlite.PopStatus, name)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %w", api.ErrUnavailable, err)
	}
	if !known {
		return api.NotFound("member", name)
	}
	m.log.Info().Str("peer", name).Msg("member forgotten")
	return nil
}

// refused says that a live member is kept out: it is on no stream, and no
// neighbour passes on what it says.
func (m *replication) refused(name string) bool { return !m.streams.Heard(name) }

// Leave implements api.Mesh.
func (n *Node) Leave(ctx context.Context) error {
	m, err := n.part()
	if err != nil {
		return err
	}
	// Also where whoever asked does not wait: half of a leave is none.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := m.ring.Leave(ctx); err != nil {
		return fmt.Errorf("leave the mesh: %w", err)
	}
	m.log.Info().Msg("left the mesh")
	n.end()
	return nil
}

// Keys implements api.Mesh.
func (n *Node) Keys(context.Context) ([]api.ClusterKey, error) {
	m, err := n.part()
	if err != nil {
		return nil, err
	}
	members := m.ring.Members()
	keys := []api.ClusterKey{}
	for _, k := range m.creds.Keyring().List() {
		if k.Removed {
			continue
		}
		yes, _ := accepts(members, k.ID)
		key := api.ClusterKey{ID: k.ID, Primary: k.Primary, Members: yes}
		if at := time.UnixMilli(k.Since).UTC(); at.Unix() != 0 { // else it came with the settings, before all that were added
			key.Added = at
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// AddKey implements api.Mesh.
func (n *Node) AddKey(_ context.Context, text string) (api.ClusterKey, error) {
	m, err := n.part()
	if err != nil {
		return api.ClusterKey{}, err
	}
	key, err := identity.ParseKey(text)
	if err != nil {
		return api.ClusterKey{}, &mesh.FieldError{Field: "key", Message: err.Error()}
	}
	err = m.changeKeys(func(ring identity.Keyring) (identity.Keyring, error) { return ring.Add(key, m.now()) })
	return api.ClusterKey{ID: key.ID(), Added: time.UnixMilli(m.now()).UTC(), Members: []string{m.node}}, refusal(err)
}

// UseKey implements api.Mesh.
func (n *Node) UseKey(_ context.Context, id string, force bool) error {
	m, err := n.part()
	if err != nil {
		return err
	}
	if _, lacking := accepts(m.ring.Members(), id); len(lacking) > 0 && !force {
		if _, ok := m.creds.Keyring().Key(id); ok {
			return fmt.Errorf("%w: %s does not accept that key yet: wait until \"edgeproxy keys list\" has every member beside it, or give --force",
				api.ErrConflict, strings.Join(lacking, ", "))
		}
	}
	return refusal(m.changeKeys(func(ring identity.Keyring) (identity.Keyring, error) { return ring.Use(id, m.now()) }))
}

// RemoveKey implements api.Mesh.
func (n *Node) RemoveKey(_ context.Context, id string, force bool) error {
	m, err := n.part()
	if err != nil {
		return err
	}
	if away := m.away(); len(away) > 0 && !force {
		return fmt.Errorf("%w: %s is expected back and may know no other key: wait for it, \"edgeproxy members forget\" it, or give --force",
			api.ErrConflict, strings.Join(away, ", "))
	}
	return refusal(m.changeKeys(func(ring identity.Keyring) (identity.Keyring, error) { return ring.Remove(id, m.now()) }))
}

// away are the POPs on the roster that are not alive.
func (m *replication) away() (names []string) {
	alive := map[string]bool{}
	for _, x := range m.ring.Members() {
		alive[x.Name] = x.Status == membership.StatusAlive
	}
	for _, name := range m.roster.names() {
		if !alive[name] {
			names = append(names, name)
		}
	}
	return names
}

// refusal says in the API's words why the keyring did not change.
func refusal(err error) error {
	switch {
	case errors.Is(err, identity.ErrUnknownKey):
		return fmt.Errorf("%w: %w", api.ErrNotFound, err)
	case errors.Is(err, identity.ErrPrimaryKey), errors.Is(err, identity.ErrInsecure), errors.Is(err, identity.ErrFull):
		return fmt.Errorf("%w: %w", api.ErrConflict, err)
	}
	return err
}

// Quarantine implements api.Mesh.
func (n *Node) Quarantine(ctx context.Context) ([]api.Quarantined, error) {
	m, err := n.part()
	if err != nil {
		return nil, err
	}
	held, err := m.store.Quarantine(ctx)
	all := []api.Quarantined{}
	for _, h := range held {
		all = append(all, api.Quarantined{Row: rowName(h.Key), Reason: h.Reason, Time: time.UnixMilli(h.Time.Milli()).UTC(), From: h.From})
	}
	return all, err
}

// Release implements api.Mesh.
func (n *Node) Release(ctx context.Context, row string) error {
	m, err := n.part()
	if err != nil {
		return err
	}
	return m.quarantined(ctx, row, func(ctx context.Context, keys []crdt.Key) error {
		applied, err := m.store.ReleaseNow(ctx, keys)
		m.applied("quarantine", applied)
		return err
	})
}

// Drop implements api.Mesh.
func (n *Node) Drop(ctx context.Context, row string) error {
	m, err := n.part()
	if err != nil {
		return err
	}
	return m.quarantined(ctx, row, func(ctx context.Context, keys []crdt.Key) error {
		_, err := m.store.Drop(ctx, keys)
		return err
	})
}

// Backup implements api.Mesh.
func (n *Node) Backup(ctx context.Context, to io.Writer) error { return n.backup(ctx, to) }

// status is what the mesh adds to the POP's.
func (m *replication) status(ctx context.Context) (api.MeshStatus, error) {
	digest, err := m.store.Digest(ctx)
	if err != nil {
		return api.MeshStatus{}, err
	}
	st := api.MeshStatus{
		Members: m.members(), Peers: []api.PeerStatus{}, Waiting: m.ring.Waiting(),
		Offset: milliseconds(m.streams.Offset()), Repairs: m.repairs.list(),
		Records: api.RecordStatus{
			Digest: digest.Sum.String(), Rows: digest.Rows, Tombstones: digest.Tombstones, Quarantined: digest.Quarantined,
			Missing: m.missing(),
		},
	}
	if why := m.unsentWhy.Load(); why != nil {
		st.Error = *why
	}
	for _, p := range m.streams.Peers() {
		st.Peers = append(st.Peers, api.PeerStatus{Node: p.Node, Connected: p.Connected, Lag: milliseconds(p.Lag), Queued: p.Queued,
			Offset: milliseconds(p.Offset), Error: p.Err})
	}
	return st, nil
}

// missing is how many writes the peers say they have and this POP lacks.
func (m *replication) missing() (n uint64) {
	ours := m.streams.Heads()
	for _, p := range m.streams.Peers() {
		for _, r := range ours.Missing(p.Heads) {
			n = max(n, r.To-r.From)
		}
	}
	return n
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
