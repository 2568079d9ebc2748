package proxy

import (
	"errors"
	"os"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/proxy/reactor"
	"golang.org/x/sys/unix"
)

// doors are the listeners of a worker. They are level-triggered: who is not
// accepted now is reported again.
type doors struct {
	worker *worker
	fds    []int
	first  int  // of fds: the copy of the group's first listener, if there is one
	shared bool // with the other workers
	shut   bool // accepting pauses
	pause  pauser

	came  time.Time  // resting: the last one
	until time.Time  // and when it ends whoever comes
	mu    sync.Mutex // of closing, for backlog
	gone  bool       // guarded by mu, written by the worker
}

// listen adds a listener, which the worker closes.
func (w *worker) listen(fd int, shared bool) {
	w.doors.fds = append(w.doors.fds, fd)
	w.doors.shared = shared
	w.doors.watch(true)
}

// watch makes epoll report who comes, or not.
func (d *doors) watch(on bool) {
	for i, fd := range d.fds {
		op, events := unix.EPOLL_CTL_ADD, uint32(unix.EPOLLIN)
		if d.shared {
			events |= unix.EPOLLEXCLUSIVE // one worker wakes for each, not all
		}
		if !on {
			op = unix.EPOLL_CTL_DEL
		}
		d.worker.control(op, int32(fd), events, unix.EpollEvent{Fd: int32(doorMark - i)})
	}
}

// accept takes some of those who wait at a door: more where more happens, for
// each round of events costs the same.
func (d *doors) accept(door, events int) {
	w := d.worker
	for range 1 + events/4 {
		if d.shut || door >= len(d.fds) {
			return
		}
		if w.server.full() {
			w.count.acceptPauses.Add(1)
			d.pauseFor(errTooMany)
			return
		}
		fd, errno := accept(d.fds[door], &w.addr)
		switch errno {
		case 0:
			d.pause.reset()
			d.came = w.now
			w.admit(fd)
		case unix.EAGAIN:
			return
		case unix.EINTR:
		case unix.ECONNABORTED: // the client has gone; nothing is short
			w.count.acceptErrors.Add(1)
		default:
			// EMFILE, ENFILE, ENOBUFS …: whatever it is, the next moment may
			// be better, and open connections go on.
			w.count.acceptErrors.Add(1)
			d.pauseFor(errno)
			return
		}
	}
}

// pauseFor pauses accepting for an error.
func (d *doors) pauseFor(err error) {
	d.shut = true
	d.watch(false)
	d.worker.wheel.Set(doorTimer, d.worker.after(d.pause.next(err)))
}

// due ends a pause, or a rest in which nobody has come for long enough.
func (d *doors) due() {
	if len(d.fds) == 0 {
		return
	}
	if d.shut {
		d.shut = false
		d.watch(true)
	}
	w := d.worker
	if w.stage != resting {
		return
	}
	if w.now.Sub(d.came) >= backlogGrace || w.now.After(d.until) || w.server.full() {
		w.advance(finishing)
		return
	}
	w.wheel.Set(doorTimer, w.after(backlogGrace/20))
}

// rest lets nobody come any more but those whom their kernels have told that
// they are connected, or will: closing a listener resets them.
func (d *doors) rest() {
	w := d.worker
	if len(d.fds) == 0 {
		w.advance(finishing)
		return
	}
	for _, fd := range d.fds {
		if err := dropSYNs(fd); err != nil {
			w.server.log.Debug().Err(err).Msg("connections that arrive as the listener closes may be reset")
		}
	}
	d.came, d.until = w.now, w.now.Add(backlogMost)
	w.wheel.Set(doorTimer, w.after(backlogGrace/20))
}

// close closes the listeners; again is nothing new.
func (d *doors) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return
	}
	d.gone = true
	if !d.shut {
		d.watch(false) // another process may have the sockets, whose clients would wake this one
	}
	closeAll(d.fds)
	d.fds = nil
	d.worker.wheel.Stop(doorTimer)
	if d.worker.group.opened {
		d.worker.group.resting.Done()
	}
}

// copies are descriptors of the same sockets, but for the group's first one.
func (d *doors) copies() (files []*os.File, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, fd := range d.fds {
		if fd == d.first {
			continue
		}
		copy, cerr := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err = errors.Join(err, os.NewSyscallError("dup", cerr)); cerr == nil {
			files = append(files, os.NewFile(uintptr(copy), "listener"))
		}
	}
	return files, err
}

// backlog is how many wait at the doors. Any goroutine may ask.
func (w *worker) backlog() (n int) {
	d := &w.doors
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, fd := range d.fds {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n += int(info.Unacked)
		}
	}
	return n
}

// readiness is what an event says of a socket.
func readiness(events uint32) (r reactor.Readiness) {
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		r |= reactor.Readable
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		r |= reactor.Writable
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		r |= reactor.Finished
	}
	if events&unix.EPOLLERR != 0 {
		r |= reactor.Failed
	}
	if events&unix.EPOLLPRI != 0 {
		r |= reactor.Urgent
	}
	return r
}
