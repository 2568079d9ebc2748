package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/identity"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
)

// openKeys joins the key of the configuration with what the mesh has changed since.
func (m *replication) openKeys(key *identity.Node) error {
	configured := identity.Insecure
	if m.cfg.ClusterKey != "" {
		var err error
		if configured, err = identity.ParseKey(string(m.cfg.ClusterKey)); err != nil {
			return fmt.Errorf("%s: %w", m.cfg.Origin("cluster_key"), err)
		}
	} else if m.cfg.Insecure {
		m.log.Warn().Msg("no cluster key and --insecure: whoever reaches the gossip ports can change routing")
	}
	keys, start, err := identity.OpenKeyring(m.keyFile, configured, time.Now().UnixMilli())
	if err != nil {
		return err
	}
	if start == identity.StartAdded {
		m.log.Info().Str("key", configured.ID()).Msg("the configured cluster key is new here and used from now on")
	}
	if start == identity.StartRemoved {
		m.log.Warn().Str("key", configured.ID()).Str("in_use", keys.Primary().ID()).
			Msg("the configured cluster key was removed by a rotation: put the new one into the settings")
	}
	m.creds, err = identity.NewCredentials(m.node, key, keys)
	return err
}

// keyIDs are the names of the accepted cluster keys, the primary first.
func (m *replication) keyIDs() []string {
	var ids []string
	for _, k := range m.creds.Keyring().Live() {
		ids = append(ids, k.ID())
	}
	return ids
}

func (m *replication) gossipKeys() [][]byte {
	var keys [][]byte
	for _, k := range m.creds.Keyring().Live() {
		keys = append(keys, k.Gossip())
	}
	return keys
}

// mergeKeys takes over what a peer knows of the cluster keys.
func (m *replication) mergeKeys(doc []byte) error {
	theirs, err := identity.DecodeKeyring(doc)
	if err != nil {
		return err
	}
	return m.changeKeys(func(ours identity.Keyring) (identity.Keyring, error) { return ours.Merge(theirs), nil })
}

// changeKeys changes the keyring everywhere it is used: file, TLS, membership,
// tags and peers.
func (m *replication) changeKeys(change func(identity.Keyring) (identity.Keyring, error)) error {
	m.keyMu.Lock()
	defer m.keyMu.Unlock()
	ours := m.creds.Keyring()
	next, err := change(ours)
	if err != nil || next.Equal(ours) {
		return err
	}
	if !next.Insecure() {
		if err := next.Save(m.keyFile); err != nil {
			return err
		}
	}
	if err := m.creds.SetKeyring(next); err != nil {
		return err
	}
	if err := m.ring.SetKeys(m.gossipKeys()); err != nil {
		m.log.Error().Err(err).Msg("membership does not take the new cluster keys")
	}
	m.retagSoon() // takes seconds, and a stream may wait for us
	m.streams.KeyringChanged()
	m.log.Info().Strs("keys", m.keyIDs()).Msg("cluster keys changed")
	return nil
}

// retagSoon has this POP's tags told anew.
func (m *replication) retagSoon() {
	select {
	case m.retag <- struct{}{}:
	default:
	}
}

// accepts says which live members of ours say that they accept a key.
func accepts(members []membership.Member, id string) (yes, no []string) {
	for _, member := range members {
		if member.Tags[tagRole] != roleOurs || member.Status != membership.StatusAlive {
			continue
		}
		if slices.Contains(strings.Split(member.Tags[tagKeys], ","), id) {
			yes = append(yes, member.Name)
		} else {
			no = append(no, member.Name)
		}
	}
	return yes, no
}
