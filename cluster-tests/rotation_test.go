package clustertests

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/edgeproxy/edgeproxy/api"
)

// keys are those that a POP accepts, by id.
func (p *pop) keys() (map[string]api.ClusterKey, error) {
	out, err := p.command("keys", "list", "--json").Output()
	if err != nil {
		return nil, fmt.Errorf("keys list: %w", err)
	}
	var list []api.ClusterKey
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("keys list: %s: %w", out, err)
	}
	byID := map[string]api.ClusterKey{}
	for _, k := range list {
		byID[k.ID] = k
	}
	return byID, nil
}

// hasKeys waits until all these POPs accept these keys, the first one being in
// use, and know it of each other.
func hasKeys(t testing.TB, pops []*pop, ids ...string) {
	t.Helper()
	var names []string
	for _, p := range pops {
		names = append(names, p.Node)
	}
	slices.Sort(names)
	eventually(t, soon, func() error {
		for _, p := range pops {
			keys, err := p.keys()
			if err != nil {
				return err
			}
			if want := slices.Sorted(slices.Values(ids)); !slices.Equal(sorted(keys), want) || !keys[ids[0]].Primary {
				return fmt.Errorf("%s has keys %+v, want %q", p.Node, keys, ids)
			}
			for id, k := range keys {
				if slices.Sort(k.Members); !slices.Equal(k.Members, names) {
					return fmt.Errorf("%s says that %s is accepted by %q, want %q", p.Node, id, k.Members, names)
				}
			}
		}
		return nil
	})
}

// TestKeyRotation under writes, with one POP off: it comes back by itself with
// the old key; then the old one goes.
func TestKeyRotation(t *testing.T) {
	needs(t, "long") // a mesh under writes for half a minute
	t.Parallel()
	m := newMesh(t, often(3, 5))
	first, off := m.pops[0], m.pops[len(m.pops)-1]
	on := m.pops[:len(m.pops)-1]
	m.fill(t, "before")
	settle(t, converged, m.pops...)
	list, err := first.keys()
	if err != nil || len(list) != 1 {
		t.Fatalf("keys at first: %+v, %v", list, err)
	}
	old := sorted(list)[0]

	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	writers := []*writer{{prefix: "sql", write: bySQL(on[0])}, {prefix: "api", write: byAPI(on[1])}}
	for _, w := range writers {
		all.Go(func() { w.run(ctx, func() {}) })
	}

	stopAll(t, off)
	next := newKey()
	file := first.dir + "/new.key"
	overwrite(t, file, []byte(next+"\n"))
	code, out, errs := first.run(t, "keys", "add", "@"+file)
	id, _, _ := strings.Cut(out, " ")
	if code != 0 || id == "" {
		t.Fatalf("keys add: %d %q %q", code, out, errs)
	}
	hasKeys(t, on, old, id)
	if err := on[1].do("keys", "use", id); err != nil {
		t.Fatal(err)
	}
	hasKeys(t, on, id, old)
	if code, _, errs := first.run(t, "keys", "remove", id); code == 0 || !strings.Contains(errs, "refused") {
		t.Errorf("the key in use was removed: %d %q", code, errs)
	}
	if code, _, errs := first.run(t, "keys", "remove", old); code == 0 || !strings.Contains(errs, off.Node) {
		t.Errorf("keys remove while %s is off: %d %q", off.Node, code, errs)
	}

	off.start(t)
	together(t, m.pops...)
	hasKeys(t, m.pops, id, old)
	if err := first.do("keys", "remove", old); err != nil {
		t.Fatal(err)
	}
	hasKeys(t, m.pops, id)
	together(t, m.pops...)
	stop()
	all.Wait()
	settle(t, converged, m.pops...)
	for _, w := range writers {
		if w.refused > 0 {
			t.Errorf("%s: %d of %d writes were refused, the last by: %v", w.prefix, w.refused, w.tried, w.last)
		}
		for _, p := range m.pops {
			if lost := w.lacks(t, p); len(lost) > 0 {
				t.Errorf("%s lacks %d rows of %s: %.200q", p.Node, len(lost), w.prefix, lost)
			}
		}
	}
	for _, p := range m.pops {
		for _, secret := range []string{m.key, next} {
			if strings.Contains(p.log.String(), secret) {
				t.Errorf("a key stands in the log of %s", p.Node)
			}
		}
	}

	// The settings still hold the old key: what the mesh has changed since counts.
	stopAll(t, off)
	off.start(t)
	off.expectLog(t, `"level":"warn"`, "was removed by a rotation")
	together(t, m.pops...)
	// The new key alone opens the mesh, the old one does not.
	s := newPOP(t, "EDGEPROXY_JOIN="+m.seed(), "EDGEPROXY_CLUSTER_KEY="+m.key)
	s.seed(t, at("theirs", "sa", refusing(t)))
	s.start(t)
	s.expectLog(t, "waiting to join")
	if err := s.alone(); err != nil {
		t.Errorf("with the key that was removed: %v", err)
	}
	m.key = next
	newcomer := m.add(t)
	newcomer.start(t)
	together(t, m.pops...)
	settle(t, converged, m.pops...)
}
