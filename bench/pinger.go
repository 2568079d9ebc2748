//go:build linux

package main

import (
	"io"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// pings is how many requests one address gets before the next has its turn: short enough that every address sees the
// same moods of the machine, long enough that the median does not see the change.
const pings = 100

// pinger is a worker that measures round trips, one request at a time over one connection per address.
type pinger struct {
	job  loadJob
	fds  []int
	done tally
}

func newPinger(j loadJob) *pinger {
	p := &pinger{job: j}
	for range j.Addrs {
		p.done.hist = append(p.done.hist, new(histogram))
	}
	return p
}

func (p *pinger) result() *tally { return &p.done }

// run ends early at the first error: a latency that lacks one of its addresses cannot be compared.
func (p *pinger) run(course *course) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer func() {
		for _, fd := range p.fds {
			_ = unix.Close(fd)
		}
	}()
	for i, addr := range p.job.Addrs {
		source := &unix.SockaddrInet4{Addr: p.job.Sources[i%len(p.job.Sources)].As4()}
		fd, err := socketTo(source, 0)
		if err == nil {
			p.fds = append(p.fds, fd)
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30})
		}
		if err == nil { // bounds connect
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 30})
		}
		if err == nil {
			err = unix.Connect(fd, sockaddr(addr))
		}
		if err != nil {
			p.done.fail("connect to "+addr.String(), err)
			return
		}
	}
	var msg [messageSize]byte
	for {
		phase := course.phase.Load() // counts for the whole turn
		if phase == ending {
			return
		}
		for i, fd := range p.fds {
			for range pings {
				msg[0] = wantEcho
				start := time.Now()
				if err := ping(fd, msg[:]); err != nil {
					p.done.fail("request to "+p.job.Addrs[i].String(), err)
					return
				}
				if phase == measuring {
					p.done.ops++
					p.done.hist[i].add(time.Since(start))
				}
			}
		}
		course.arrived(phase)
	}
}

// ping sends msg and waits for as many bytes. fd blocks.
func ping(fd int, msg []byte) error {
	if _, errno := write(fd, msg); errno != 0 {
		return errno
	}
	for got := 0; got < len(msg); {
		n, errno := read(fd, msg[got:])
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		got += n
	}
	return nil
}
