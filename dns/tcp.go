package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	mostConns     = 256              // of one listener; beyond, the one that was silent for longest makes room (RFC 7766, 6.2.3)
	mostOfClient  = 32               // of them, of a client outside: its own makes room
	idleTime      = 10 * time.Second // for a whole query to come
	sendTime      = 5 * time.Second  // for an answer to go
	mostPipelined = 16               // queries of one connection that others answer
	// lastQueries is how long connections stay when the server ends, for what is
	// on its way: who is cut off has to ask again.
	lastQueries = 250 * time.Millisecond
)

// tcp is one listener and its connections.
type tcp struct {
	*Server
	ln       net.Listener
	forwards context.Context
	asking   *sync.WaitGroup

	mu    sync.Mutex
	conns map[*tcpConn]struct{}
}

// tcpConn is one client's. Queries are answered in the order in which they
// come, but for those that others answer (RFC 7766).
type tcpConn struct {
	net.Conn
	from    netip.Addr
	active  atomic.Int64  // unix ns of its last query
	slots   chan struct{} // one for each query that others answer
	writing sync.Mutex
}

func (t *tcp) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, t.end)
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		conn, err := t.ln.Accept()
		switch {
		case err != nil && over(ctx, err):
			return nil
		case err != nil && !errors.Is(err, syscall.ECONNABORTED):
			pause(ctx)
			continue
		case err != nil:
			continue
		}
		c := &tcpConn{Conn: conn, from: addrOf(conn.RemoteAddr()), slots: make(chan struct{}, mostPipelined)}
		c.active.Store(time.Now().UnixNano())
		t.admit(c)
		all.Go(func() {
			defer t.leave(c)
			t.converse(ctx, c)
		})
	}
}

// end has the listener stop, and soon all connections.
func (t *tcp) end() {
	if d, ok := t.ln.(interface{ SetDeadline(time.Time) error }); ok {
		_ = d.SetDeadline(time.Unix(1, 0))
	} else {
		_ = t.ln.Close()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.conns {
		_ = c.SetReadDeadline(time.Now().Add(lastQueries))
	}
}

// admit takes a connection in. Where there are too many, of all or of a client
// that is none of ours, the one of them that was silent for longest goes.
func (t *tcp) admit(c *tcpConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var oldest, own *tcpConn
	count := 0
	for other := range t.conns {
		if oldest == nil || other.active.Load() < oldest.active.Load() {
			oldest = other
		}
		if network(other.from) != network(c.from) {
			continue
		}
		count++
		if own == nil || other.active.Load() < own.active.Load() {
			own = other
		}
	}
	switch {
	case count >= mostOfClient && !t.inside(c.from):
		t.drop(own)
	case len(t.conns) >= mostConns:
		t.drop(oldest)
	}
	t.conns[c] = struct{}{}
	t.metrics.conns.Add(1)
}

func (t *tcp) drop(c *tcpConn) {
	delete(t.conns, c)
	_ = c.Close()
}

func (t *tcp) leave(c *tcpConn) {
	for range mostPipelined { // answers that others still give
		c.slots <- struct{}{}
	}
	_ = c.Close()
	t.mu.Lock()
	delete(t.conns, c)
	t.mu.Unlock()
	t.metrics.conns.Add(-1)
}

// converse answers queries until the client has gone, says nothing for a
// while, or ctx ends.
func (t *tcp) converse(ctx context.Context, c *tcpConn) {
	var buf []byte
	for ending := false; ; {
		ending = c.wait(ctx, ending)
		var err error
		if buf, err = readMessage(c, buf); err != nil {
			return
		}
		began := time.Now()
		c.active.Store(began.UnixNano())
		r := t.respondSafely(buf, c.from, false, began)
		switch {
		case r.forward != nil:
			t.pass(r.forward, c, began)
		case r.packet == nil:
			t.metrics.dropped[byTCP].Add(1)
			return // who does not speak DNS is not spoken to
		default:
			if c.send(r.packet) != nil {
				return
			}
			t.metrics.answered(byTCP, r.rcode, time.Since(began))
		}
	}
}

// wait sets how long the next query may take, and says whether the server ends:
// then it is set for the last time.
func (c *tcpConn) wait(ctx context.Context, ending bool) bool {
	if ending {
		return true
	}
	_ = c.SetReadDeadline(time.Now().Add(idleTime))
	if ctx.Err() == nil {
		return false
	}
	_ = c.SetReadDeadline(time.Now().Add(lastQueries)) // tcp.end may have been before
	return true
}

// readMessage reads one message behind its length into buf, if that is large enough.
func readMessage(r io.Reader, buf []byte) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return buf, err
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err := io.ReadFull(r, buf)
	return buf, err
}

// send writes one message; a client that does not read is given up.
func (c *tcpConn) send(packet []byte) error {
	message := make([]byte, 2, 2+len(packet))
	binary.BigEndian.PutUint16(message, uint16(len(packet)))
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(sendTime))
	_, err := c.Write(append(message, packet...))
	if err != nil {
		_ = c.Close()
	}
	return err
}

// pass has another server answer. A client with too many such queries waits.
func (t *tcp) pass(req *request, c *tcpConn, began time.Time) {
	c.slots <- struct{}{}
	answered := func(packet []byte, rcode int) {
		_ = c.send(packet) // else it has gone
		t.metrics.answered(byTCP, rcode, time.Since(began))
	}
	if !t.forward.take() {
		<-c.slots
		answered(req.failed())
		return
	}
	t.asking.Go(func() {
		defer func() { t.forward.end(); <-c.slots }()
		answered(t.answerOf(t.forwards, req))
	})
}
