package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/edgeproxy/edgeproxy/proxy/route/rights"
)

// rightsMesh is who has rights, or may have. A POP that has seeds and has never
// met anybody does not know the mesh.
func (m *replication) rightsMesh() rights.Mesh {
	roster := m.roster.names()
	return rights.Mesh{Roster: roster, Alive: m.router.Lives(), Met: len(roster) > 0 || len(m.cfg.Join) == 0}
}

// rightsEvery is how often it is looked at how many rights are needed.
const rightsEvery = 250 * time.Millisecond

var errStrictReadOnly = errors.New("strict_limits: the database is read-only, so this POP would take no part in the mesh that counts its connections")

// ledger holds this POP's rights to connections, with strict limits: it joins
// their book, the router's slots, the streams and the clients that wait.
type ledger struct {
	router *route.Router
	mesh   func() rights.Mesh
	send   func(peer string, n gossip.Note)
	asked  chan struct{} // size 1: somebody has begun to wait

	mu      sync.Mutex
	book    *rights.Book
	waiting map[string]*queue // by backend
}

// queue is the clients that wait for a right to one backend.
type queue struct {
	waiting, urgent int64
	asks            bool          // since it was last asked
	news            chan struct{} // closed when there may be one
}

func newLedger(self string, life uint64, router *route.Router) *ledger {
	return &ledger{router: router, asked: make(chan struct{}, 1), book: rights.New(self, life), waiting: map[string]*queue{}}
}

// run looks at what is needed until ctx ends.
func (l *ledger) run(ctx context.Context) {
	ticker := time.NewTicker(rightsEvery)
	defer ticker.Stop()
	for l.tick(time.Now()); ; {
		select {
		case <-ctx.Done():
			return
		case <-l.asked:
			l.ask(time.Now())
		case now := <-ticker.C:
			l.tick(now)
		}
	}
}

// ask asks for those who have begun to wait since it last did.
func (l *ledger) ask(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for backend, q := range l.waiting {
		if !q.asks {
			continue
		}
		q.asks = false
		l.postLocked(l.book.Ask(now, backend, q.waiting, q.urgent > 0))
		if l.router.Spare(backend) > 0 { // this POP is home
			l.tellLocked(backend)
		}
	}
}

func (l *ledger) tick(now time.Time) {
	mesh, needs := l.mesh(), l.router.Needs(now)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.book.SetMesh(mesh)
	demands := make([]rights.Demand, len(needs))
	for i, n := range needs {
		demands[i] = rights.Demand{Backend: n.Backend, Limit: n.Limit, Spare: n.Spare, Places: n.Slot.Rights()}
		if q := l.waiting[n.Backend]; q != nil {
			demands[i].Waiting, demands[i].Urgent = q.waiting, q.urgent > 0
		}
	}
	l.postLocked(l.book.Tick(now, demands))
	for _, n := range needs {
		if n.Slot.Rights().Spare() > 0 {
			l.tellLocked(n.Backend)
		}
	}
}

// postLocked hands messages to the streams, which do not block.
func (l *ledger) postLocked(out []rights.Message) {
	for _, m := range out {
		l.send(m.To, gossip.Note{Key: m.Key(), Body: m.Append(nil)})
	}
}

// tellLocked wakes those who wait for the backend.
func (l *ledger) tellLocked(backend string) {
	if q := l.waiting[backend]; q != nil {
		close(q.news)
		q.news = make(chan struct{})
	}
}

// home is who grants rights to the backend, as far as is known, and how many
// this POP has; nobody does without strict limits.
func (l *ledger) home(backend string) (home string, rights int64) {
	if l == nil {
		return "", 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.book.Home(backend)
}

// took is told what another POP says of rights.
func (l *ledger) took(peer string, n gossip.Note) error {
	m, err := rights.Decode(n.Body)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.postLocked(l.book.Receive(time.Now(), peer, m))
	if m.Grant != nil {
		l.tellLocked(m.Grant.Backend)
	}
	return nil
}

// Wait implements proxy.Rights.
func (l *ledger) Wait(ctx context.Context, backend string, urgent bool) error {
	l.mu.Lock()
	q := l.waiting[backend]
	if q == nil {
		q = &queue{news: make(chan struct{})}
		l.waiting[backend] = q
	}
	q.add(1, urgent)
	q.asks = true
	news := q.news
	l.mu.Unlock()
	select {
	case l.asked <- struct{}{}:
	default:
	}
	var err error
	select {
	case <-news:
	case <-ctx.Done():
		err = ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if q.add(-1, urgent); q.waiting == 0 && l.waiting[backend] == q {
		delete(l.waiting, backend) // the next tick says that nobody waits
	}
	return err
}

func (q *queue) add(n int64, urgent bool) {
	q.waiting += n
	if urgent {
		q.urgent += n
	}
}
