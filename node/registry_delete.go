package node

import (
	"context"
	"errors"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/mesh"
)

// orphanAfter is for how long a registration may be without a backend, which
// may be on its way; the POP that took its last heartbeat deletes it first.
const orphanAfter, othersOrphanAfter = 5 * time.Second, 30 * time.Second

// delete removes the rows of backends that have been silent for very long.
func (r *registry) delete(ctx context.Context) {
	r.mu.Lock()
	gone := r.gone[:min(len(r.gone), mostBeats)]
	r.gone = nil
	r.mu.Unlock()
	if len(gone) == 0 {
		return
	}
	var deleted []string
	err := r.m.store.Write(ctx, func(tx *sqlite.Tx) error {
		deleted = nil
		for _, g := range gone {
			still, err := r.unchanged(tx, g)
			if err != nil {
				return err
			}
			if !still {
				continue
			}
			if err := unregister(tx, g.id); err != nil {
				return err
			}
			deleted = append(deleted, g.id)
		}
		return nil
	})
	if err != nil {
		return // tried again as long as they are silent
	}
	for _, id := range deleted {
		r.log.Info().Str("backend", id).Msg("registered backend deleted: no heartbeat for ten times its TTL")
	}
	r.count.deleted.Add(uint64(len(deleted)))
	r.m.picture.poke()
}

// unchanged says whether the row is the one that was judged, and nothing was heard since.
func (r *registry) unchanged(tx *sqlite.Tx, g silent) (bool, error) {
	row, found, err := tx.Get(sqlite.Registrations, g.id)
	if err != nil || !found {
		return false, err
	}
	_, reg, err := mesh.ParseRegistration(row)
	if err != nil || reg.POP != g.pop || !reg.Heartbeat.Equal(g.heartbeat) {
		return false, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.beats[g.id].at.After(g.heartbeat), nil
}

// unregister deletes all that there is of a registered backend.
func unregister(tx *sqlite.Tx, id string) error {
	var errs []error
	for _, t := range []sqlite.Table{sqlite.Registrations, sqlite.Backends, sqlite.BackendOptions} {
		_, err := tx.Delete(t, id)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// saw is told by the picture of the registrations that have no backend, with
// the POP that took the last heartbeat.
func (r *registry) saw(lone map[string]string) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	next := make(map[string]time.Time, len(lone))
	for id, pop := range lone {
		due := now.Add(othersOrphanAfter)
		if pop == r.m.node {
			due = now.Add(orphanAfter)
		}
		if old, known := r.orphans[id]; known && old.Before(due) {
			due = old
		}
		next[id] = due
	}
	r.orphans = next
}

// deleteOrphans removes registrations whose backend somebody has deleted.
func (r *registry) deleteOrphans(ctx context.Context) {
	var ids []string
	r.mu.Lock()
	for id, due := range r.orphans {
		if time.Now().After(due) && len(ids) < mostBeats {
			ids = append(ids, id)
		}
	}
	r.mu.Unlock()
	if len(ids) == 0 || r.m.untimed() || len(r.m.waiting()) > 0 {
		return
	}
	err := r.m.store.Write(ctx, func(tx *sqlite.Tx) error {
		for _, id := range ids {
			_, there, err := tx.Get(sqlite.Backends, id)
			if err != nil {
				return err
			}
			if there {
				continue
			}
			if err := unregister(tx, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		r.m.picture.poke()
	}
}
