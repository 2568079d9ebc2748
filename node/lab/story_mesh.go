package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
)

// crossing is a row that is changed on both sides of a cut, in another column each.
type crossing struct {
	cut, rest  *pop
	id         string
	soft, hard int64 // written on the one that is cut off, and on the rest
	soft0      int64 // as they were
	hard0      int64
	dropped    int64 // datagrams, before
	w          *watch
}

// cutHold is how long a cut lasts at least.
const cutHold = 2 * time.Second

// cut takes a POP off the mesh, while clients come to it as before, and writes on both sides.
func (s *story) cut(ctx context.Context, name string) (string, error) {
	if s.crossing != nil {
		return "", fmt.Errorf("%s is cut off already: heal it first", s.crossing.cut.name)
	}
	p := s.world.pop(name)
	if name == "" {
		p, _ = choose(s, s.world.allPOPs())
	}
	if p == nil {
		return "", fmt.Errorf("there is no POP %q", name)
	}
	b, ok := choose(s, s.world.allBackends())
	if !ok || len(s.world.allPOPs()) < 2 {
		return "", fmt.Errorf("there is nothing to cut %s off from", p.name)
	}
	dropped := s.world.links.dropped.Load()
	s.world.links.cut(p.name)
	s.say("%s is cut off: its streams and gossip stop, nobody is told", p.name)
	rest, err := s.writer(p.region)
	if err != nil {
		return "", err
	}
	began := time.Now()
	c := &crossing{cut: p, rest: rest, id: b.id, dropped: dropped, soft0: s.world.ledger.number(b.id, "soft_limit"), hard0: s.world.ledger.number(b.id, "hard_limit")}
	c.soft, c.hard = c.soft0+5, c.hard0+10
	c.w = s.tally.watch(func(v *visit) bool { return v.pop == p && v.began.After(began) })
	s.crossing = c
	for _, write := range []struct {
		at     *pop
		column string
		value  int64
	}{{p, "soft_limit", c.soft}, {rest, "hard_limit", c.hard}} {
		s.say("%s> UPDATE backends SET %s=%d WHERE id='%s'", write.at.name, write.column, write.value, b.id)
		if err := s.world.set(ctx, write.at, b.id, write.column, write.value); err != nil {
			return "", err
		}
	}
	err = served(ctx, c.w, enough)
	pause(ctx, cutHold-time.Since(began))
	n, failed := c.w.count()
	if ctx.Err() == nil {
		s.verdict(p.name+" serves while it is cut off", err == nil && failed == 0, "%d served, %d failed", n, failed)
	}
	return "cut " + p.name, nil
}

// heal puts it back: then all POPs have what both sides wrote.
func (s *story) heal(ctx context.Context, name string) (string, error) {
	c := s.crossing
	if c == nil {
		return "", errors.New("nothing is cut off")
	}
	if name != "" && s.world.pop(name) != c.cut {
		return "", fmt.Errorf("%s is not cut off: %s is", name, c.cut.name)
	}
	own, other := c.cut.sees(ctx, c.id), c.rest.sees(ctx, c.id)
	s.verdict("nothing crossed the cut before it healed", own.SoftLimit == c.soft && own.HardLimit == c.hard0 && other.SoftLimit == c.soft0 && other.HardLimit == c.hard,
		"%s has soft %d hard %d of %s, %s has soft %d hard %d; %d datagrams vanished", c.cut.name, own.SoftLimit, own.HardLimit, c.id,
		c.rest.name, other.SoftLimit, other.HardLimit, s.world.links.dropped.Load()-c.dropped)
	s.world.links.heal(c.cut.name)
	s.say("%s is put back", c.cut.name)
	took, err := until(ctx, mostWait, func() bool {
		return s.world.allSee([]string{c.id}, func(p *pop, id string) bool {
			b := p.sees(ctx, id)
			return b.SoftLimit == c.soft && b.HardLimit == c.hard
		}, true)
	})
	if err == nil {
		err = s.world.settlePending(ctx)
	}
	n, failed := c.w.count()
	c.w.stop()
	s.crossing = nil
	if ctx.Err() == nil {
		s.verdict("what both sides of the cut wrote is on every POP, after at most "+mostWait.String(), err == nil && failed == 0,
			"%s after healing; %s served %d meanwhile, %d failed", took.Round(time.Millisecond), c.cut.name, n, failed)
	}
	return "heal " + c.cut.name, nil
}

// region is the one that a step names, or one of those that serve and are not
// the last ones.
func (s *story) region(name string) (geo.Region, error) {
	var serving []geo.Region
	for _, r := range regions {
		if s.world.truth.standing(r) == yes {
			serving = append(serving, r)
		}
	}
	if name == "" {
		calm := slices.DeleteFunc(slices.Clone(serving), func(r geo.Region) bool { return !s.calm(r) })
		if len(calm) == 0 {
			calm = serving
		}
		r, _ := choose(s, calm)
		name = string(r)
	}
	if !slices.Contains(serving, geo.Region(name)) || len(serving) < 2 {
		return "", fmt.Errorf("region %q cannot be drained: of those that serve, %v, one must be left", name, serving)
	}
	return geo.Region(name), nil
}

// drain takes a region out of service for new connections.
func (s *story) drain(ctx context.Context, name string) (string, error) {
	region, err := s.region(name)
	if err != nil {
		return "", err
	}
	at, err := s.writer(region)
	if err != nil {
		return "", err
	}
	ids := s.world.idsIn(region)
	s.say("%s> INSERT INTO backend_options (id, draining) SELECT id, 1 FROM backends WHERE region='%s' ON CONFLICT (id) DO UPDATE SET draining=1", at.name, region)
	s.world.truth.change(ids, func(f *fact) { f.draining = true })
	if err := s.world.drain(ctx, at, region, true); err != nil {
		return "", err
	}
	late := s.world.settle(ctx, ids, func(p *pop, id string) bool { return p.sees(ctx, id).State == "draining" })
	after := time.Now()
	s.drained[region] = s.tally.watch(func(v *visit) bool { return v.served == region && s.world.truth.at(v.scene)[region] == no })
	w := s.tally.watch(func(v *visit) bool { return v.began.After(after) && v.client.place.Region == region })
	err = served(ctx, w, enough)
	n, failed := w.count()
	w.stop()
	took, open := until(ctx, mostWait, func() bool {
		return s.crossing != nil || !slices.ContainsFunc(ids, func(id string) bool { return s.world.backend(id).now() > 0 })
	})
	if ctx.Err() == nil {
		s.verdict(fmt.Sprintf("region %s drains: its clients are served elsewhere, open connections end by themselves", region),
			late == nil && err == nil && open == nil && failed == 0, "%d served, %d failed, empty after %s", n, failed, took.Round(time.Millisecond))
	}
	return "drain " + string(region), nil
}

// undrain ends it.
func (s *story) undrain(ctx context.Context, name string) (string, error) {
	region := geo.Region(name)
	if name == "" {
		for r := range s.drained {
			region = r
		}
	}
	if s.drained[region] == nil {
		return "", fmt.Errorf("region %q is not drained", name)
	}
	at, err := s.writer(region)
	if err != nil {
		return "", err
	}
	s.judgeDrain(region)
	ids := s.world.idsIn(region)
	s.world.truth.change(ids, func(f *fact) { f.draining = false })
	s.say("%s> UPDATE backend_options SET draining=0 WHERE id IN (SELECT id FROM backends WHERE region='%s')", at.name, region)
	if err := s.world.drain(ctx, at, region, false); err != nil {
		return "", err
	}
	alive := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !s.world.backend(id).alive() })
	late := s.world.settle(ctx, alive, func(p *pop, id string) bool { return p.sees(ctx, id).State == "up" })
	w := s.tally.watch(func(v *visit) bool { return v.served == region && v.client.place.Region == region })
	err = served(ctx, w, enough)
	n, failed := w.count()
	w.stop()
	s.mu.Lock()
	for _, id := range ids {
		s.warm[id] = time.Now().Add(slowStart)
	}
	s.mu.Unlock()
	if ctx.Err() == nil {
		s.verdict(fmt.Sprintf("region %s has its clients again", region), late == nil && err == nil && failed == 0, "%d so far", n)
	}
	return "undrain " + string(region), nil
}

// judgeDrain says what a region got from when every POP knew of its drain.
func (s *story) judgeDrain(region geo.Region) {
	w := s.drained[region]
	delete(s.drained, region)
	n, _ := w.count()
	w.stop()
	s.verdict(fmt.Sprintf("region %s got nobody while it was drained", region), n == 0, "%d connections", n)
}

// join starts one more POP, in the next region, with backends where that has none.
func (s *story) join(ctx context.Context) (string, error) {
	at, err := s.writer("")
	if err != nil {
		return "", err
	}
	p, err := s.world.join(ctx, at, s.ways)
	if err != nil {
		return "", err
	}
	began := time.Now()
	s.say("%s has joined by %s, has its rows and is announced", p.name, at.name)
	w := s.tally.watch(func(v *visit) bool { return v.pop == p && v.began.After(began) })
	own := s.tally.watch(func(v *visit) bool { return v.pop == p && v.served == p.region })
	err = served(ctx, w, enough)
	if err == nil {
		err = served(ctx, own, enough)
	}
	n, failed := w.count()
	m, _ := own.count()
	w.stop()
	own.stop()
	if ctx.Err() == nil {
		s.verdict(p.name+" joins and takes its share", err == nil && failed == 0, "%d served by it, %d of them in %s, %d failed", n, m, p.region, failed)
	}
	return "join " + p.name, nil
}
