//go:build unix

package proxy

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// drain moves what src has to offer now. True: that was the last, for the
// reason in d.err. False: wait until src has more.
func (d *direction) drain(uintptr) bool {
	if d.bulky && !d.bulk() {
		return d.err != nil
	}
	buf := buffers.Get().(*[]byte)
	for d.move(*buf) {
	}
	buffers.Put(buf)
	return d.err != nil
}

// move reads once and delivers what it got. False: there was nothing, or an end.
func (d *direction) move(buf []byte) bool {
	if d.session.ended.Load() != uint32(endOpen) {
		d.err = net.ErrClosed // one that never has to wait would not notice
		return false
	}
	n, err := syscall.Read(d.src.fd, buf)
	switch {
	case err == syscall.EINTR:
		return true
	case err == syscall.EAGAIN:
		return false
	case err != nil:
		d.err = err
		return false
	case n == 0:
		d.err = d.eof()
		return false
	}
	if d.err = d.write(buf[:n]); d.err != nil {
		return false
	}
	return n < len(buf) || d.bulk()
}

// write delivers b to dst, waiting while dst takes no more. The error is a *writeError.
func (d *direction) write(b []byte) error {
	if d.dst.fd < 0 {
		return d.writeInProcess(b)
	}
	for {
		n, err := syscall.Write(d.dst.fd, b)
		if n > 0 {
			d.bytes.Add(int64(n))
			if b = b[n:]; len(b) == 0 {
				return nil
			}
		}
		switch err {
		case nil, syscall.EINTR:
		case syscall.EAGAIN:
			return d.writeSlowly(b)
		default:
			return &writeError{err}
		}
	}
}

// writeSlowly is write for when dst takes no more at the moment.
func (d *direction) writeSlowly(b []byte) error {
	return d.whenWritable(func() error {
		for len(b) > 0 {
			n, err := syscall.Write(d.dst.fd, b)
			if n > 0 {
				d.bytes.Add(int64(n))
				b = b[n:]
			}
			if err != nil && err != syscall.EINTR {
				return err
			}
		}
		return nil
	})
}

// whenWritable calls fn, again whenever dst is writable, until it returns
// something other than EAGAIN. The error is a *writeError.
func (d *direction) whenWritable(fn func() error) error {
	d.phase.Store(writing)
	defer d.phase.Store(reading)
	var broken error
	err := d.dst.raw.Write(func(uintptr) bool {
		broken = fn()
		return broken != syscall.EAGAIN
	})
	if err != nil { // the session was ended while this waited
		broken = err
	}
	if broken != nil {
		return &writeError{broken}
	}
	return nil
}

// eof is how src has ended when a read returns nothing: io.EOF for a FIN.
//
// The kernel tells of a reset once, and that may have been the opposite
// direction's write. To this read the socket then looks ended; passing that on
// would make what was cut off look complete. But a socket on which only one
// direction has ended is not hung up (POLLHUP), except by a reset, and one
// whose error nobody has asked for yet (POLLERR) had its FIN before the reset:
// else this read would have been told.
func (d *direction) eof() error {
	if o := d.opposite(); o.phase.Load() != passed && poll(d.src.fd)&(unix.POLLHUP|unix.POLLERR) == unix.POLLHUP &&
		o.phase.Load() != passed { // it may have hung up itself meanwhile
		return syscall.ECONNRESET
	}
	return io.EOF
}

// lost says that src has broken while this direction does not read it, because
// it waits for dst or because src had ended its half.
func (d *direction) lost() bool {
	return d.src.fd >= 0 && d.phase.Load() != reading && poll(d.src.fd)&unix.POLLERR != 0
}

// poll returns what the kernel says about a socket now.
func poll(fd int) int16 {
	fds := [1]unix.PollFd{{Fd: int32(fd)}}
	for {
		switch _, err := unix.Poll(fds[:], 0); err {
		case nil:
			return fds[0].Revents
		case unix.EINTR:
		default:
			return 0
		}
	}
}
