package proxy

import (
	"io"
	"sync"
	"sync/atomic"
	"syscall"
)

// bufferSize holds what one read takes. A read that fills it is the sign of a
// bulk transfer, for which drain changes to splice.
const bufferSize = 16 << 10

// buffers are borrowed only while bytes are in flight.
var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// socket is one side of a session. Its two directions use the descriptor
// itself; the one that ends last closes it.
type socket struct {
	connection
	raw syscall.RawConn // to wait on
	fd  int             // -1: it has none, being a connection of the overlay in this process
}

// open finds the descriptor. An error means that the socket is closed.
func (s *socket) open() error {
	conn, ok := s.connection.(syscall.Conn)
	if !ok {
		s.fd = -1
		return nil
	}
	var err error
	if s.raw, err = conn.SyscallConn(); err != nil {
		return err
	}
	return s.raw.Control(func(fd uintptr) { s.fd = int(fd) })
}

// direction moves the bytes of one direction of a session.
type direction struct {
	session  *session
	src, dst *socket
	phase    atomic.Uint32 // what it is doing
	srcBroke end           // what it is called when src breaks
	dstBroke end           // and when dst does
	bytes    atomic.Int64  // delivered to dst
	reported int64         // of these, how many the backend's figures have
	bulky    bool          // the last wake-up moved enough to splice at the next
	err      error         // what drain ended with
}

const (
	reading uint32 = iota // or waiting for src to have something
	writing               // waiting for dst to take what has been read
	passed                // src has ended, and dst is being told or has been
)

func (d *direction) init(c *session, src, dst *socket, srcBroke, dstBroke end) {
	d.session, d.src, d.dst, d.srcBroke, d.dstBroke = c, src, dst, srcBroke, dstBroke
}

// opposite is the direction that writes to src.
func (d *direction) opposite() *direction {
	if d == &d.session.up {
		return &d.session.down
	}
	return &d.session.up
}

// unreported returns the bytes moved since the last call.
func (d *direction) unreported() int64 {
	n := d.bytes.Load()
	delta := n - d.reported
	d.reported = n
	return delta
}

// run moves bytes until src ends or one of the sockets breaks, and passes that on.
//
// io.Copy would hold a buffer, or on Linux a pipe (two more descriptors), while
// it waits. So this waits for readability first and borrows only then. All
// of it happens inside one RawConn.Read, whose callback is called again after
// each wait: a readiness that arrives meanwhile is not lost, and nothing is
// allocated per chunk. Few and small frames lie between this and the system
// calls: a stack that never grows beyond Go's least is half the memory of an
// idle connection.
func (d *direction) run() {
	if d.inProcess() {
		d.finish(d.copy())
		return
	}
	err := d.src.raw.Read(d.drain)
	if d.err != nil {
		err = d.err
	}
	d.finish(err)
}

func (d *direction) finish(err error) {
	c := d.session
	defer c.front.serving.Done()
	defer c.directionDone()
	if err == io.EOF {
		d.phase.Store(passed)
		if c.open.Load() == 1 {
			return // the other direction has ended before: closing both says it all
		}
		// Where dst is not connected any more, the other direction, which
		// reads it, says so.
		if err = d.dst.closeWrite(); err == nil || err == syscall.ENOTCONN {
			return
		}
		err = &writeError{err}
	}
	// Also when the session was ended from outside: then the reason is known
	// already, and this one changes nothing.
	if _, ok := err.(*writeError); ok {
		c.end(d.dstBroke, true)
		return
	}
	c.end(d.srcBroke, true)
}

// writeError marks an error as dst's.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
