package membership

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// use hands out serf for one call, which done ends; Run waits for that.
func (r *Ring) use() (s *serf.Serf, done func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.serf == nil || r.ending {
		return nil, nil, ErrNotRunning
	}
	r.calls.Add(1)
	return r.serf, r.calls.Done, nil
}

// SetTags replaces this node's tags. It returns when they are on their way, at
// the latest after two seconds.
func (r *Ring) SetTags(tags map[string]string) error {
	if err := checkTags(tags); err != nil {
		return err
	}
	r.tagging.Lock()
	defer r.tagging.Unlock()
	r.mu.Lock()
	r.tags = maps.Clone(tags)
	begun := r.begun
	r.mu.Unlock()
	if !begun {
		return nil // Run will begin with them
	}
	<-r.started
	s, done, err := r.use()
	if err != nil {
		return fmt.Errorf("set tags: %w", err)
	}
	defer done()
	if err := s.SetTags(maps.Clone(tags)); err != nil {
		// The size was checked, so it is the broadcast that nobody has confirmed yet.
		r.log.Debug().Err(err).Msg("tags not yet sent")
	}
	r.changes.Add(1)
	return nil
}

// Leave tells the others that this node goes, so that they see "left" and not
// "failed". It takes one to five seconds; ctx may cut the wait short, not the
// leaving. The node goes on answering until Run's context ends, but joins no more.
func (r *Ring) Leave(ctx context.Context) error {
	s, done, err := r.use()
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	r.mu.Lock()
	r.leaving, r.waiting = true, ""
	r.mu.Unlock()
	left := make(chan error, 1)
	go func() { // Run waits for it by done
		defer done()
		left <- s.Leave()
	}()
	select {
	case err = <-left:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}

func (r *Ring) isLeaving() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leaving
}

// Forget removes a failed or left member, here and on all members that can be
// reached now; one that was away still has it, and it may be forgotten there again.
func (r *Ring) Forget(node string) error {
	s, done, err := r.use()
	if err != nil {
		return fmt.Errorf("forget %s: %w", node, err)
	}
	defer done()
	all := s.Members()
	i := slices.IndexFunc(all, func(m serf.Member) bool { return m.Name == node })
	if i < 0 {
		return fmt.Errorf("forget %s: %w", node, ErrUnknownMember)
	}
	if st := all[i].Status; st != serf.StatusFailed && st != serf.StatusLeft {
		return fmt.Errorf("forget %s: %w: stop it first", node, ErrAlive)
	}
	if err := s.RemoveFailedNodePrune(node); err != nil {
		return fmt.Errorf("forget %s: %w", node, err)
	}
	return nil
}

// SetKeys replaces all keys at once; the first encrypts from now on. What is
// under way with a key that is dropped is lost and sent again.
func (r *Ring) SetKeys(keys [][]byte) error {
	if err := checkKeys(keys); err != nil {
		return err
	}
	if (len(keys) > 0) != (r.keyring != nil) {
		return ErrUnencrypted
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return setKeys(r.keyring, keys)
}

// setKeys makes the ring hold these keys in this order. memberlist's RemoveKey
// writes over the array that readers of GetKeys are going through, except where
// it removes the last: so those that stay are moved to the front first.
func setKeys(ring *memberlist.Keyring, keys [][]byte) error {
	if ring == nil {
		return nil
	}
	for _, k := range keys {
		if err := ring.AddKey(k); err != nil {
			return fmt.Errorf("add key: %w", err)
		}
	}
	for _, k := range slices.Backward(keys) {
		if err := ring.UseKey(k); err != nil {
			return fmt.Errorf("use key: %w", err)
		}
	}
	for _, k := range slices.Backward(ring.GetKeys()[len(keys):]) {
		if err := ring.RemoveKey(k); err != nil {
			return fmt.Errorf("remove key: %w", err)
		}
	}
	return nil
}
