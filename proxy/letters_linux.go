package proxy

import (
	"net/netip"

	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// letter is what another goroutine has for a worker: a right that it waited
// for, or a connection that another worker accepted.
type letter struct {
	to     key
	choice route.Choice
	fd     int32 // of a new connection, if to is none
	peer   netip.AddrPort
}

// await leaves waiting for a right to a goroutine: few connections ever do.
func (w *worker) await(c *conn, q route.Query, choice route.Choice) {
	c.phase = awaiting
	w.wheel.Stop(c.key.id + firstTimer)
	w.count.rightWaits.Add(1)
	w.waiting++
	to, tried := c.key, c.tried
	w.group.running.Go(func() {
		w.post(letter{to: to, choice: w.server.await(w.group.front.cut, q, choice, tried)})
	})
}

// post gives the worker a letter, from any goroutine. False: it has ended. It
// does not while it waits for a right.
func (w *worker) post(l letter) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sealed {
		return false
	}
	w.letters = append(w.letters, l)
	w.bell.ring()
	return true
}

// seal says that nothing is left to do, and that nothing will be.
func (w *worker) seal() bool {
	if w.stage < finishing || w.conns.Len() > 0 || w.waiting > 0 {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sealed = len(w.letters) == 0
	return w.sealed
}

// open reads the letters.
func (w *worker) open() {
	w.mu.Lock()
	letters := w.letters
	w.letters = nil
	w.mu.Unlock()
	for _, l := range letters {
		if l.to == (key{}) {
			w.begin(l.fd, l.peer)
			continue
		}
		w.waiting--
		w.awaited(w.conns.Find(l.to.id, l.to.generation), l.choice)
	}
}

// awaited goes on with a connection that has waited; nil: it has ended meanwhile.
func (w *worker) awaited(c *conn, choice route.Choice) {
	switch {
	case c == nil && choice.Backend != nil:
		choice.Slot.Release(0)
	case c == nil:
	case choice.Backend == nil:
		w.end(c, c.unserved(), false)
	case !w.dial(c, choice):
		w.choose(c)
	}
}

// idlest is the worker that should serve the next connection: the one who
// accepted it, unless it has clearly more than another.
func (g *group) idlest(own *worker) *worker {
	least, n := own, own.count.active.Load()
	for _, w := range g.workers {
		if m := w.count.active.Load(); m+8+m/8 < n {
			least, n = w, m
		}
	}
	return least
}
