package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// hasReactor says whether this system has the reactor.
const hasReactor = true

// group is the workers that serve one listener.
//
//	serving ── ctx ended ── resting ── queues empty ── finishing ── all closed, or the deadline ── ended
type group struct {
	server  *Server
	front   front // of those of its clients that goroutines serve
	workers []*worker
	alone   bool               // only the listeners that there are, which all workers share
	shared  []*net.TCPListener // those, where they do

	opened  bool           // the following count
	running sync.WaitGroup // workers, and who waits for rights for them
	resting sync.WaitGroup // workers that listen
}

// serveReactor is Serve by epoll.
func (s *Server) serveReactor(ctx context.Context, ln *net.TCPListener, port *Port, others []*net.TCPListener) error {
	cut, cutNow := context.WithCancel(context.WithoutCancel(ctx))
	defer cutNow()
	g := &group{server: s, front: front{first: ln, port: port, cut: cut}, alone: s.serving.isGiven(ln)}
	if err := g.open(ln, others); err != nil {
		for _, one := range append(others, ln) {
			one.Close() // those that were taken over already
		}
		return err
	}
	s.groups.add(g)
	defer s.groups.remove(g)
	s.serving.add(ln, func() ([]*os.File, error) { return g.files(ln) })
	defer s.serving.remove(ln)
	for _, w := range g.workers {
		g.running.Go(w.run)
	}
	defer s.sweep()() // of those that goroutines serve

	broke := g.wait(ctx, ln)
	stage := resting
	if broke || s.serving.isGiven(ln) {
		stage = finishing
	}
	g.enter(stage)
	rested, ended := make(chan struct{}), make(chan struct{})
	go func() { g.resting.Wait(); close(rested) }()
	go func() {
		g.running.Wait()
		g.front.serving.Wait()
		close(ended)
	}()
	select {
	case <-rested:
	case <-s.killed:
	}
	ln.Close()
	for _, other := range others {
		other.Close() // closed already, but where all share them
	}
	port.atRest()
	alone, over := context.WithCancel(ctx) // of a port that was closed alone connections go on
	defer over()
	if broke {
		over()
	}
	s.drain(alone, ended, func() {
		cutNow()
		g.enter(cutting)
		s.endSessions(&g.front)
	})
	<-rested
	if broke {
		return fmt.Errorf("accept on %s: %w", ln.Addr(), net.ErrClosed)
	}
	return nil
}

// open makes a worker for each core, and a listener for each, but for those
// that there are already. Where the address cannot be shared like that they
// accept from one and the same.
func (g *group) open(ln *net.TCPListener, others []*net.TCPListener) (err error) {
	defer func() {
		if err != nil {
			for _, w := range g.workers {
				w.close()
			}
		}
	}()
	n := runtime.GOMAXPROCS(0)
	for range n {
		w, err := newWorker(g)
		if err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
		g.workers = append(g.workers, w)
	}
	if g.alone {
		if err := g.share(append([]*net.TCPListener{ln}, others...)); err != nil {
			return fmt.Errorf("listen on %s: %w", ln.Addr(), err)
		}
	} else if err := g.spread(ln, others); err != nil {
		return fmt.Errorf("listen on %s: %w", ln.Addr(), err)
	}
	g.resting.Add(n)
	g.opened = true
	return nil
}

// share has all workers accept from all listeners.
func (g *group) share(lns []*net.TCPListener) error {
	g.shared = lns
	for _, w := range g.workers {
		for _, ln := range lns {
			fd, err := copyOf(ln)
			if err != nil {
				return err
			}
			w.listen(fd, true)
		}
	}
	return nil
}

// spread gives each worker listeners of its own.
func (g *group) spread(ln *net.TCPListener, others []*net.TCPListener) error {
	n := len(g.workers)
	fds, err := takeOver(others)
	if err != nil {
		return err
	}
	if fds, err = listenGroup(ln, fds, n); err != nil {
		g.server.log.Debug().Err(err).Msg("workers share one listener")
	}
	if len(fds) == 0 {
		return g.share([]*net.TCPListener{ln})
	}
	for j, fd := range fds { // the worker closes them from now on, whatever follows
		g.workers[j%n].listen(fd, false)
	}
	for i, w := range g.workers {
		if i == 0 || len(w.doors.fds) == 0 { // the first listener: who waits there already, too
			fd, err := copyOf(ln)
			if err != nil {
				return err
			}
			w.listen(fd, false)
			w.doors.first = fd
		}
	}
	return nil
}

// files are copies of ln and of the workers' listeners.
func (g *group) files(ln *net.TCPListener) ([]*os.File, error) {
	if g.shared != nil {
		return copies(g.shared)
	}
	files, err := copies([]*net.TCPListener{ln})
	for _, w := range g.workers {
		more, werr := w.doors.copies()
		files, err = append(files, more...), errors.Join(err, werr)
	}
	return files, err
}

// wait returns when the context ends, or true when somebody else has closed the listener.
func (g *group) wait(ctx context.Context, ln *net.TCPListener) (broke bool) {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-g.front.port.closed:
			return false
		case <-look.C:
			if isClosed(ln) {
				return true
			}
		}
	}
}

// enter makes the workers go on to a stage.
func (g *group) enter(stage int32) {
	for _, w := range g.workers {
		w.goal.Store(stage)
		w.wake()
	}
}

// groups are the groups of a server.
type groups struct {
	mu  sync.Mutex
	all map[*group]bool
}

func (gs *groups) add(g *group) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.all == nil {
		gs.all = map[*group]bool{}
	}
	gs.all[g] = true
}

func (gs *groups) remove(g *group) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	delete(gs.all, g)
}

// wake makes every worker look at the settings.
func (gs *groups) wake() {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for g := range gs.all {
		for _, w := range g.workers {
			w.wake()
		}
	}
}

// waiting says whether connections wait to be accepted.
func (gs *groups) waiting() bool {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for g := range gs.all {
		for _, w := range g.workers {
			if w.backlog() > 0 {
				return true
			}
		}
	}
	return false
}

// bell wakes a worker that waits: an eventfd in its epoll set.
type bell struct {
	mu   sync.Mutex
	fd   int // -1 once it is closed
	rung atomic.Bool
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fd >= 0 && b.rung.CompareAndSwap(false, true) {
		_, _ = unix.Write(b.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // its count cannot be full
	}
}

// heard must come before what was rung for is looked at.
func (b *bell) heard() {
	var count [8]byte
	_, _ = unix.Read(b.fd, count[:])
	b.rung.Store(false)
}

func (b *bell) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fd >= 0 {
		unix.Close(b.fd)
		b.fd = -1
	}
}
