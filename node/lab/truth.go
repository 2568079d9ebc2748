package lab

import (
	"maps"
	"slices"
	"sync"

	"github.com/edgeproxy/edgeproxy/geo"
)

// standing says whether a region can serve.
type standing int

const (
	no    standing = iota // nobody may go there: it is drained, or has nothing
	maybe                 // it changes: some POPs know, some do not yet
	yes                   // whoever should go there goes there
)

// scene is what holds for connections of one moment. It never changes.
type scene map[geo.Region]standing

// truth is what the lab knows of its backends because it did it, whatever the
// POPs say, as the sequence of scenes.
type truth struct {
	mu       sync.Mutex
	backends map[string]*fact
	scenes   []scene
}

type fact struct {
	region   geo.Region
	dead     bool
	draining bool
	settled  bool // every POP is known to see it so
}

// change notes what happens to some backends; until they are settled a POP may
// see them as they were.
func (t *truth) change(ids []string, do func(*fact)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range ids {
		do(t.backends[id])
		t.backends[id].settled = false
	}
	t.nextLocked()
}

// settle notes that every POP sees them as they are.
func (t *truth) settle(ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range ids {
		t.backends[id].settled = true
	}
	t.nextLocked()
}

// add notes a new backend, which no POP knows yet.
func (t *truth) add(id string, region geo.Region) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.backends[id] = &fact{region: region}
	t.nextLocked()
}

func (t *truth) nextLocked() {
	s := scene{}
	for _, f := range t.backends {
		s[f.region] = max(s[f.region], f.standing())
	}
	if len(t.scenes) == 0 || !maps.Equal(s, t.scenes[len(t.scenes)-1]) {
		t.scenes = append(t.scenes, s)
	}
}

func (f *fact) standing() standing {
	switch {
	case !f.settled:
		return maybe
	case f.dead || f.draining:
		return no
	}
	return yes
}

// now is the number of the scene.
func (t *truth) now() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.scenes) - 1
}

// standing is a region's now.
func (t *truth) standing(region geo.Region) standing { return t.at(t.now())[region] }

// at is the scene of a number.
func (t *truth) at(i int) scene {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.scenes[max(i, 0)]
}

// since are the scenes from that one on.
func (t *truth) since(first int) []scene {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.scenes[max(first, 0):])
}

// right says whether a client of a region, at a POP of another, may be served
// by the region that served it: the README's tiers. In a scene where nothing
// is sure of the tiers above, several answers are.
func (s scene) right(client, pop, served geo.Region) bool {
	for _, tier := range []geo.Region{client, pop} {
		if s[tier] != no && served == tier {
			return true
		}
		if s[tier] == yes {
			return false
		}
	}
	return s[served] != no
}
