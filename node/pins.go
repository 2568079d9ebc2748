package node

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
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

	mu      sync.Mutex
	known   map[string]string    // as the table has it
	fresh   map[string]string    // seen, and not in the table yet
	missing map[string]time.Time // whose rows are in the table no more, and since when
}

// forgetAfter is for how long a row has to be missing until its POP counts as
// forgotten: the rows of a table that was replaced come back.
const forgetAfter = 5 * time.Second

// pinAgain is how long a key that could not be written down waits.
const pinAgain = 10 * time.Second

func newPins(store *sqlite.Store, log zerolog.Logger) *pins {
	return &pins{store: store, log: log, more: make(chan struct{}, 1), known: map[string]string{}, fresh: map[string]string{}, missing: map[string]time.Time{}}
}

// read takes over what the table holds.
func (p *pins) read(rows [][]any) {
	known := make(map[string]string, len(rows))
	p.mu.Lock()
	defer p.mu.Unlock()
	for node := range p.known {
		if _, already := p.missing[node]; !already {
			p.missing[node] = time.Now()
		}
	}
	for _, row := range rows {
		node, _ := row[0].(string)
		delete(p.missing, node) // also where somebody has emptied the key
		if key, _ := row[1].(string); key != "" {
			known[node] = key
		}
	}
	p.known = known
	maps.DeleteFunc(p.fresh, func(node, _ string) bool { return known[node] != "" })
}

// forgotten are the POPs whose rows have been deleted since the last call.
func (p *pins) forgotten() (pops []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for node, since := range p.missing {
		if time.Since(since) >= forgetAfter {
			pops = append(pops, node)
			delete(p.missing, node)
		}
	}
	return pops
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
		fresh := maps.Clone(p.fresh)
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
