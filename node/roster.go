package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
)

// expectFor is how long a POP that does not answer is waited for: nothing that
// it has not seen is forgotten meanwhile.
const expectFor = 24 * time.Hour

// maxRoster bounds the file. Beyond it the POPs that were seen longest ago go.
const maxRoster = 4096

// roster remembers the POPs of the mesh over restarts, in <db>.peers: whom to
// dial before membership has found anybody, and whose word is waited for
// before a delete is forgotten. A POP is on it from the first time it was
// seen until it leaves, is forgotten by name, or has not answered for a day.
type roster struct {
	path string

	mu    sync.Mutex
	peers map[string]rosterEntry
	saved map[string]rosterEntry // what the file holds
}

type rosterEntry struct {
	Addr string    `json:"addr"` // of its record streams, ip:port
	Seen time.Time `json:"seen"` // when it was last alive
}

// openRoster reads the file; one that is damaged is an empty one, with the
// error to log, for all it holds comes back by membership.
func openRoster(path string) (*roster, error) {
	r := &roster{path: path, peers: map[string]rosterEntry{}}
	body, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(body, &r.peers)
	}
	if err != nil || r.peers == nil {
		r.peers = map[string]rosterEntry{}
	}
	if err != nil {
		return r, fmt.Errorf("read the POPs known before: %w", err)
	}
	r.saved = maps.Clone(r.peers)
	r.wake(time.Now())
	return r, nil
}

// wake has those that were alive when this POP was last there count as alive
// until now, where all would be given up at once: it was this POP that was off
// for a day, or the whole mesh, and nobody had a chance to answer.
func (r *roster) wake(now time.Time) {
	var last time.Time
	for _, e := range r.peers {
		if e.Seen.After(last) {
			last = e.Seen
		}
	}
	if off := now.Sub(last); off > expectFor {
		for node, e := range r.peers {
			e.Seen = e.Seen.Add(off).UTC().Round(0)
			r.peers[node] = e
		}
	}
}

// update takes over who is there now, and saves what changed.
func (r *roster) update(members []membership.Member, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range members {
		addr, ours := syncAddr(m)
		switch {
		case m.Self || !ours:
		case m.Status == membership.StatusLeft:
			delete(r.peers, m.Name)
		case m.Status == membership.StatusAlive:
			seen := now.UTC().Round(0)
			// Not a write a second: the hour is enough for a day's wait.
			if e, ok := r.peers[m.Name]; ok && e.Addr == addr && now.Sub(e.Seen) < time.Hour {
				seen = e.Seen
			}
			r.peers[m.Name] = rosterEntry{Addr: addr, Seen: seen}
		}
	}
	maps.DeleteFunc(r.peers, func(_ string, e rosterEntry) bool { return now.Sub(e.Seen) > expectFor+time.Hour })
	for len(r.peers) > maxRoster {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(r.peers)), func(a, b string) int { return r.peers[a].Seen.Compare(r.peers[b].Seen) })
		delete(r.peers, oldest)
	}
	return r.saveLocked()
}

// forget takes a POP off the roster.
func (r *roster) forget(node string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.peers, node)
	return r.saveLocked()
}

// saveLocked writes what the file does not hold yet.
func (r *roster) saveLocked() error {
	if maps.Equal(r.saved, r.peers) {
		return nil
	}
	err := writeJSON(r.path, r.peers)
	if err == nil {
		r.saved = maps.Clone(r.peers)
	}
	return err
}

// list is everybody on the roster, as peers to dial.
func (r *roster) list() []gossip.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []gossip.Peer
	for _, node := range slices.Sorted(maps.Keys(r.peers)) {
		all = append(all, gossip.Peer{Node: node, Addr: r.peers[node].Addr})
	}
	return all
}

// has says whether a POP is on it.
func (r *roster) has(node string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.peers[node]
	return ok
}

func (r *roster) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.peers))
}
