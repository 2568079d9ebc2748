package node

import (
	"context"
	"encoding/base64"
	"fmt"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/gossip"
	"github.com/rs/zerolog"
)

// pins are the keys by which POPs were first seen, in the table pop_keys: who
// has the mesh's key still cannot take the name of a POP that is known.
type pins struct {
	store *sqlite.Store
	log   zerolog.Logger
	more  chan struct{} // size 1: there is something to write

	mu    sync.Mutex
	known map[string]string // as the table has it
	fresh map[string]string // seen, and not in the table yet
}

// pinAgain is how long a key that could not be written down waits.
const pinAgain = 10 * time.Second

func newPins(store *sqlite.Store, log zerolog.Logger) *pins {
	return &pins{store: store, log: log, more: make(chan struct{}, 1), known: map[string]string{}, fresh: map[string]string{}}
}

// read takes over what the table holds.
func (p *pins) read(rows [][]any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known = make(map[string]string, len(rows))
	for _, row := range rows {
		node, _ := row[0].(string)
		if key, _ := row[1].(string); key != "" {
			p.known[node] = key
			delete(p.fresh, node)
		}
	}
}

// admit refuses a peer that is not who it says. It does not block: a name
// that is seen for the first time is written down by run.
func (p *pins) admit(h gossip.Hello) error {
	key := base64.RawStdEncoding.EncodeToString(h.Key)
	p.mu.Lock()
	defer p.mu.Unlock()
	first, ok := p.known[h.Node]
	if !ok {
		first, ok = p.fresh[h.Node]
	}
	if ok && first != key {
		return fmt.Errorf("%s has another key than the POP that was first seen under this name; if its machine was replaced: edgeproxy members forget %s", h.Node, h.Node)
	}
	if !ok {
		p.fresh[h.Node] = key
		select {
		case p.more <- struct{}{}:
		default:
		}
	}
	return nil
}

// forget lets the name be taken by another.
func (p *pins) forget(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.known, node)
	delete(p.fresh, node)
}

// run writes down the names that were seen for the first time.
func (p *pins) run(ctx context.Context) {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.more:
		case <-again:
		}
		again = nil
		p.mu.Lock()
		fresh := make(map[string]string, len(p.fresh))
		for node, key := range p.fresh {
			fresh[node] = key
		}
		p.mu.Unlock()
		err := p.store.Write(ctx, func(tx *sqlite.Tx) error {
			for node, key := range fresh {
				if row, found, err := tx.Get(sqlite.PopKeys, node); err != nil {
					return err
				} else if found && row[1] != nil && row[1] != "" {
					continue // another POP was quicker, and its word is the mesh's
				}
				if err := tx.Put(sqlite.PopKeys, node, map[string]any{"public_key": key}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			p.log.Warn().Err(err).Msg("the key of a new POP is not written down yet")
			again = time.After(pinAgain)
		}
	}
}
