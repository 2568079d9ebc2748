package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
)

// find is the backend that a step names, or one of those that fit.
func (s *story) find(id string, fits func(*backend) bool) (*backend, error) {
	if id != "" {
		if b := s.world.backend(id); b != nil {
			return b, nil
		}
		return nil, fmt.Errorf("there is no backend %q", id)
	}
	all := slices.DeleteFunc(s.world.allBackends(), func(b *backend) bool { return !fits(b) })
	if b, ok := choose(s, all); ok {
		return b, nil
	}
	return nil, fmt.Errorf("no backend is in the state for it")
}

// deadHold is how long a backend is dead at least.
const deadHold = time.Second

// kill ends a backend: its region's clients are served all the same, by others.
func (s *story) kill(ctx context.Context, id string) (string, error) {
	b, err := s.find(id, (*backend).alive)
	if err != nil {
		return "", err
	}
	if !b.alive() {
		return "", fmt.Errorf("%s is dead already", b.id)
	}
	if living := slices.DeleteFunc(s.world.allBackends(), func(b *backend) bool { return !b.alive() }); len(living) == 1 {
		return "", fmt.Errorf("%s is the last one that lives", b.id)
	}
	s.world.kill(b)
	s.say("%s dies: connections to it break, new ones are refused", b.id)
	scene := s.world.truth.now()
	dead := time.Now()
	w := s.tally.watch(func(v *visit) bool {
		return v.scene >= scene && v.began.After(dead) && v.client.place.Region == b.region
	})
	err = served(ctx, w, enough)
	pause(ctx, deadHold-time.Since(dead))
	n, failed := w.count()
	to := w.stop()[b.id]
	if ctx.Err() == nil {
		s.verdict(b.id+" is dead and its region's clients do not notice", err == nil && failed == 0 && to == 0,
			"%d served by others, %d by it, %d failed", n-to, to, failed)
	}
	return "kill " + b.id, nil
}

// revive starts it again. That POPs try it and clients return may take as long
// as they have given it up for: finish waits for that.
func (s *story) revive(ctx context.Context, id string) (string, error) {
	b, err := s.find(id, func(b *backend) bool { return !b.alive() })
	if err != nil {
		return "", err
	}
	if b.alive() {
		return "", fmt.Errorf("%s is not dead", b.id)
	}
	s.world.truth.change([]string{b.id}, func(f *fact) { f.dead = false })
	if _, err := until(ctx, mostWait, func() bool { err = s.world.serve(b); return !errors.Is(err, syscall.EADDRINUSE) }); err != nil {
		return "", err
	}
	if err != nil {
		return "", err
	}
	s.say("%s is back at its address; POPs that have given it up try it again in their time", b.id)
	s.mu.Lock()
	s.back[b.id] = s.tally.watch(func(v *visit) bool { return v.backend == b.id })
	s.warm[b.id] = time.Now().Add(time.Hour) // until it is up everywhere
	s.mu.Unlock()
	return "revive " + b.id, nil
}

// returned settles the backends that are up on every POP again, and says
// whether none is left to wait for.
func (s *story) returned(ctx context.Context) bool {
	up := func(p *pop, id string) bool { return p.sees(ctx, id).State == "up" }
	clients := map[string]int{}
	s.mu.Lock()
	for id, w := range s.back {
		if n, _ := w.count(); n > 0 && s.world.allSee([]string{id}, up, true) {
			clients[id] = n
			w.stop()
			delete(s.back, id)
			s.warm[id] = time.Now().Add(slowStart)
			s.world.truth.settle([]string{id})
		}
	}
	none := len(s.back) == 0
	s.mu.Unlock()
	for id, n := range clients {
		s.verdict(id+" takes clients again", true, "%d so far, up on every POP", n)
	}
	return none
}

// slowStart is how long a backend that came back takes to its full share.
const slowStart = 11 * time.Second

// weight changes one on a POP of another region: the shares of the region
// follow, whichever POP a client comes by.
func (s *story) weight(ctx context.Context, id string, n int64) (string, error) {
	b, err := s.find(id, func(b *backend) bool { return b.alive() && s.calm(b.region) && s.light(b) })
	if err != nil && id == "" {
		b, err = s.find("", (*backend).alive)
	}
	if err != nil {
		return "", err
	}
	if n == 0 {
		n = min(mostWeight, 5*s.world.ledger.number(b.id, "weight"))
	}
	if s.world.truth.standing(b.region) != yes {
		return "", fmt.Errorf("region %s serves nobody now: there is no share to see", b.region)
	}
	if !s.calm(b.region) {
		s.say("waiting until %s has its full share again after what happened there", b.region)
		if _, err := until(ctx, 2*mostWait, func() bool { s.returned(ctx); return s.calm(b.region) }); err != nil {
			return "", fmt.Errorf("region %s does not come to rest: %w", b.region, err)
		}
	}
	at, err := s.writer(b.region)
	if err != nil {
		return "", err
	}
	old := s.world.ledger.number(b.id, "weight")
	s.say("%s> UPDATE backends SET weight=%d WHERE id='%s'  -- was %d", at.name, n, b.id, old)
	if err := s.world.set(ctx, at, b.id, "weight", n); err != nil {
		return "", err
	}
	err = s.world.settle(ctx, []string{b.id}, func(p *pop, id string) bool { return p.sees(ctx, id).Weight == n })
	if ctx.Err() == nil {
		s.shares(ctx, b, fmt.Sprintf("%s with weight %d instead of %d gets its share on every POP", b.id, n, old), err)
	}
	return fmt.Sprintf("weight %s %d", b.id, n), nil
}

// light is true of a backend whose share is not the greatest: a change shows.
func (s *story) light(b *backend) bool {
	for _, id := range s.world.idsIn(b.region) {
		if s.world.ledger.number(id, "weight") > s.world.ledger.number(b.id, "weight") {
			return true
		}
	}
	return len(s.world.idsIn(b.region)) == 1
}

// calm says that no backend of the region is dead, or has just come back.
func (s *story) calm(region geo.Region) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.world.idsIn(region) {
		if !s.world.backend(id).alive() || time.Now().Before(s.warm[id]) {
			return false
		}
	}
	return true
}
