package proxy

import (
	"errors"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	pipeSize  = 1 << 20 // bytes that one pipe holds, and one splice moves at most
	pipesMost = 64      // pipes there are, at most
	pipeShare = 32      // and one for so many descriptors that this process may have, at most
)

var errNoPipe = errors.New("as many pipes as may be are in use")

// pipe carries bytes from one socket to another inside the kernel.
type pipe struct{ r, w int }

func (p pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// pipes are borrowed while bytes are in flight: an idle connection has none.
// Readers that are slow keep theirs, so that their number is bounded: the
// descriptors are connections'. Without a pipe a buffer does as well.
var pipes pipePool

type pipePool struct {
	mu   sync.Mutex
	idle []pipe
	lent int
}

// pipesAllowed is how many pipes there may be.
var pipesAllowed = sync.OnceValue(func() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return pipesMost
	}
	return int(min(max(limit.Cur/pipeShare, 1), pipesMost))
})

func (pp *pipePool) get() (pipe, error) {
	pp.mu.Lock()
	if pp.lent >= pipesAllowed() {
		pp.mu.Unlock()
		return pipe{}, errNoPipe
	}
	pp.lent++
	if n := len(pp.idle); n > 0 {
		p := pp.idle[n-1]
		pp.idle = pp.idle[:n-1]
		pp.mu.Unlock()
		return p, nil
	}
	pp.mu.Unlock()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		pp.mu.Lock()
		pp.lent--
		pp.mu.Unlock()
		return pipe{}, err
	}
	// A refusal (the user's quota of pipe pages) leaves the default of 64 KiB.
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize)
	return pipe{fds[0], fds[1]}, nil
}

// put takes back a pipe that is empty.
func (pp *pipePool) put(p pipe) {
	pp.mu.Lock()
	defer pp.mu.Unlock()
	pp.lent--
	pp.idle = append(pp.idle, p)
}

// drop ends a pipe that is not: whose bytes it holds are nobody else's.
func (pp *pipePool) drop(p pipe) {
	pp.mu.Lock()
	pp.lent--
	pp.mu.Unlock()
	p.close()
}

// bulk splices from src to dst, without the bytes passing through this
// process, until src has nothing to offer or there is an end, in d.err. True:
// src has to be read in another way.
//
// Where urgent data (RFC 6093) is next, splice finds nothing, or an end,
// whatever comes behind it: only a read can tell, and passes over it.
func (d *direction) bulk() bool {
	p, err := pipes.get()
	if err != nil {
		d.bulky = false
		return true // no more of them: the buffer does as well
	}
	total := 0
	for d.session.ended.Load() == uint32(endOpen) {
		n, err := unix.Splice(d.src.fd, nil, p.w, nil, pipeSize, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if n > 0 {
			if d.err = d.flush(p, int(n)); d.err != nil {
				pipes.drop(p)
				return false
			}
			total += int(n)
			continue
		}
		if err == unix.EINTR {
			continue
		}
		pipes.put(p)
		d.bulky = total >= bufferSize
		switch err {
		case nil, unix.EAGAIN:
			return true
		case unix.EINVAL, unix.ENOSYS, unix.EPERM, unix.EOPNOTSUPP: // not with this socket, kernel or sandbox
			d.bulky = false
			return true
		default:
			d.err = err
		}
		return false
	}
	pipes.put(p)
	d.err = net.ErrClosed
	return false
}

// flush moves the n bytes in the pipe to dst, waiting while dst takes none.
// The error is a *writeError.
func (d *direction) flush(p pipe, n int) error {
	for n > 0 {
		m, err := unix.Splice(p.r, nil, d.dst.fd, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if m > 0 {
			d.bytes.Add(m)
			n -= int(m)
		}
		switch err {
		case nil, unix.EINTR:
		case unix.EAGAIN:
			return d.flushSlowly(p, n)
		default:
			return &writeError{err}
		}
	}
	return nil
}

// flushSlowly is flush for when dst takes no more at the moment.
func (d *direction) flushSlowly(p pipe, n int) error {
	return d.whenWritable(func() error {
		for n > 0 {
			m, err := unix.Splice(p.r, nil, d.dst.fd, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
			if m > 0 {
				d.bytes.Add(m)
				n -= int(m)
			}
			if err != nil && err != unix.EINTR {
				return err
			}
		}
		return nil
	})
}
