package node

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrRenamed ends Run where the POP's name was made up and turned out to be
// another's, as in a copied directory: the name is forgotten, run it again.
var ErrRenamed = errors.New("another live POP has the name that was made up here")

// yieldWithin is how old a process may be to give way to one of the same name.
// A POP that has served for longer than that goes on, whoever turns up.
const yieldWithin = time.Minute

// yield ends this POP, which has just started, where another one lives under its name.
func (n *Node) yield(ctx context.Context, taken <-chan string) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case addr := <-taken:
			if time.Since(n.started) > yieldWithin {
				n.log.Error().Str("node", n.life.Node).Str("addr", addr).Msg("another live POP has this POP's name: end one of the two")
				continue
			}
			if !n.life.made {
				return fmt.Errorf("%s: another live node is called %s (seen at %s): give this one a name of its own", n.cfg.Origin("node_id"), n.life.Node, addr)
			}
			n.log.Warn().Str("node", n.life.Node).Str("addr", addr).Msg("another live POP has the name that was made up here: this is a copy of it, and gets a new name")
			if err := n.life.renew(n.cfg.DBPath); err != nil {
				return fmt.Errorf("forget the name %s, which is another's: %w", n.life.Node, err)
			}
			return ErrRenamed
		}
	}
}

// sweepAffinity removes expired bindings once a minute until ctx ends.
func (n *Node) sweepAffinity(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-time.After(time.Minute):
			n.affinity.Sweep(now)
		}
	}
}
