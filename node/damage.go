package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
)

// openStore opens the database. One that was damaged since this POP last had
// it is moved aside where there are others to fill a new one: what they have
// comes back by itself, and nothing that is wrong gets to them. A POP that
// knows of no other does not throw away what can still be read.
func (n *Node) openStore(ctx context.Context) (store *sqlite.Store, err error) {
	path := n.cfg.DBPath
	if store, err = sqlite.Open(ctx, path); err == nil {
		if lost := store.LostLog(); lost != "" {
			n.damage = append(n.damage, lost)
			n.log.Error().Str("db", path).Str("lost", lost).Msg("log of the routing database was damaged: the other POPs have what they were sent of it")
		}
		return store, nil
	}
	if !errors.Is(err, sqlite.ErrDamaged) || n.life.Epoch == 0 { // it never was this POP's: somebody named the wrong file
		return nil, err
	}
	if known, _ := openRoster(path + ".peers"); len(n.cfg.Join) == 0 && len(known.list()) == 0 {
		return nil, fmt.Errorf("%w; this POP knows no other that could fill a new one: see what can be read with sqlite3 %s .recover, or name another POP in EDGEPROXY_JOIN", err, path)
	}
	aside, moved := sqlite.MoveAside(path, n.opts.Now())
	if moved != nil {
		return nil, errors.Join(err, moved)
	}
	n.damage = append(n.damage, "the database was damaged: moved to "+aside+", and begun anew from the other POPs")
	n.log.Error().Err(err).Str("db", path).Str("moved_to", aside).Msg("routing database was damaged: moved aside, the other POPs fill a new one")
	return sqlite.Open(ctx, path)
}
