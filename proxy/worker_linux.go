package proxy

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/edgeproxy/edgeproxy/proxy/reactor"
	"golang.org/x/sys/unix"
)

// The stages of a worker, in order.
const (
	serving   int32 = iota
	resting         // takes who waits in its queues, and nobody else
	finishing       // lets who is there finish
	cutting         // ends who is there
)

const (
	tick = 4 * time.Millisecond // of the timers
	turn = 1 << 20              // bytes of one connection before the others: about 100 µs

	// What a worker is always told of a socket, on every change.
	interest = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET
)

// worker serves its share of a group's connections, in one goroutine: nothing
// below is locked or shared but where it says so.
type worker struct {
	server *Server
	group  *group
	count  *counters
	epfd   int
	epoll  *os.File // the same in the runtime's poller, which parks the goroutine
	raw    syscall.RawConn
	bell   bell
	doors  doors
	stage  int32
	goal   atomic.Int32 // set from outside
	set    *Settings    // as of the last look

	conns   reactor.Slab[conn]
	wheel   reactor.Wheel
	sockets sockets
	again   []key // connections that have used up their turn
	waiting int   // connections for which a goroutine waits for rights

	start   time.Time // tick 0
	now     time.Time // when the last events came
	alarm   uint64    // tick at which the poller wakes this, Never: at none
	events  [128]unix.EpollEvent
	some    int // of them
	polling reactor.Polling
	poll    func(uintptr) bool
	addr    unix.RawSockaddrAny

	mu      sync.Mutex // of what follows
	letters []letter   // from other goroutines
	sealed  bool       // there will be no more
}

// key finds a connection, and only that one.
type key struct{ id, generation uint32 }

// Ids of the wheel: the doors', and those of connections after it.
const (
	doorTimer  = 0
	firstTimer = 1
)

// Marks of what is no connection; of one, the generation is odd.
const (
	bellMark = -1
	doorMark = -2 // and below
)

func newWorker(g *group) (*worker, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(epfd, true); err != nil { // so that NewFile gives it to the poller
		unix.Close(epfd)
		return nil, err
	}
	w := &worker{server: g.server, group: g, epfd: epfd, epoll: os.NewFile(uintptr(epfd), "epoll"), alarm: reactor.Never, start: time.Now()}
	w.now, w.set = w.start, g.server.settings.Load()
	w.sockets.worker, w.doors.worker = w, w
	w.doors.pause.log = g.server.log
	w.wheel.Start(0)
	w.poll = w.look
	if w.raw, err = w.epoll.SyscallConn(); err == nil {
		w.bell.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err != nil {
		w.epoll.Close()
		return nil, err
	}
	w.count = g.server.Metrics.join()
	w.control(unix.EPOLL_CTL_ADD, int32(w.bell.fd), unix.EPOLLIN, unix.EpollEvent{Fd: bellMark})
	return w, nil
}

// close is called once, when nothing else uses the worker.
func (w *worker) close() {
	w.doors.close()
	w.server.Metrics.leave(w.count)
	w.bell.close()
	w.epoll.Close()
}

func (w *worker) wake() { w.bell.ring() }

// control changes what epoll says of a descriptor. It fails where the kernel
// lacks memory; then the connection is found by its timeouts.
func (w *worker) control(op int, fd int32, events uint32, mark unix.EpollEvent) {
	mark.Events = events
	_, _, _ = syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(w.epfd), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&mark)), 0, 0)
}

// run serves until the group has come to an end and nobody is left.
func (w *worker) run() {
	defer w.close()
	for !w.seal() {
		w.wait()
		w.now = time.Now()
		w.configure() // who came after a change finds it made
		for i := range w.events[:w.some] {
			w.event(&w.events[i])
		}
		w.turns()
		w.wheel.Advance(w.ticks(w.now), w.due)
		if goal := w.goal.Load(); goal > w.stage {
			w.advance(goal)
		}
	}
}

// configure takes settings that have changed, and their timeouts for all.
func (w *worker) configure() {
	if set := w.server.settings.Load(); set != w.set {
		w.set = set
		w.conns.Each(func(_ uint32, c *conn) { w.timers(c) })
	}
}

// wait returns when there are events, or something else to do.
func (w *worker) wait() {
	if w.look(0) || len(w.again) > 0 {
		return
	}
	began := time.Now()
	for looks := 1; !w.polling.Enough(looks, func() time.Duration { return time.Since(began) }); looks++ {
		yield()
		if w.look(0) {
			return
		}
	}
	next := w.wheel.Next()
	if w.alarm > next {
		w.alarm = next
		_ = w.epoll.SetReadDeadline(w.start.Add(time.Duration(next) * tick)) // it is in the poller: newWorker saw to that
	}
	began = time.Now()
	if err := w.raw.Read(w.poll); errors.Is(err, os.ErrDeadlineExceeded) {
		w.alarm = reactor.Never
		_ = w.epoll.SetReadDeadline(time.Time{})
	}
	w.polling.Slept(time.Since(began))
}

// yield lets other threads that wait for this core run first.
func yield() { _, _, _ = syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// look asks the kernel for events, without waiting.
func (w *worker) look(uintptr) bool {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(w.epfd), uintptr(unsafe.Pointer(&w.events[0])), uintptr(len(w.events)), 0, 0, 0)
	if w.some = 0; errno == 0 {
		w.some = int(n)
	}
	return w.some > 0
}

// ticks is how many ticks have passed at a time; the first that is not before
// it is one more.
func (w *worker) ticks(at time.Time) uint64 { return uint64(max(0, at.Sub(w.start)) / tick) }

// after is the tick that comes so long after now, not before.
func (w *worker) after(d time.Duration) uint64 { return w.ticks(w.now.Add(d)) + 1 }

func (w *worker) event(e *unix.EpollEvent) {
	switch {
	case e.Fd == bellMark:
		w.bell.heard()
		w.configure() // which may be what it rang for
		w.open()
	case e.Fd <= doorMark:
		w.doors.accept(int(doorMark-e.Fd), w.some)
	default:
		if c := w.conns.Find(uint32(e.Fd)>>1, uint32(e.Pad)); c != nil {
			w.ready(c, reactor.Side(e.Fd&1), e.Events)
		}
	}
}

// turns lets those go on who had used up their turn.
func (w *worker) turns() {
	for n := len(w.again); n > 0; n-- { // who comes to it meanwhile is next time's
		k := w.again[0]
		w.again = append(w.again[:0], w.again[1:]...)
		if c := w.conns.Find(k.id, k.generation); c != nil {
			c.queued = false
			w.relay(c)
		}
	}
}

// due is called for each timer whose time has come.
func (w *worker) due(id uint32) {
	if id == doorTimer {
		w.doors.due()
		return
	}
	w.expire(w.conns.At(id - firstTimer))
}

// advance begins a stage.
func (w *worker) advance(stage int32) {
	w.stage = stage
	if stage == resting {
		w.doors.rest()
		return
	}
	w.doors.close()
	if stage == cutting {
		w.conns.Each(func(_ uint32, c *conn) { w.end(c, endDrained, false) })
	}
}
