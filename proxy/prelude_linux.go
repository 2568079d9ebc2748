package proxy

import (
	"bytes"
	"io"
	"net"
	"os"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/reactor"
	"golang.org/x/sys/unix"
)

// hear reads what the client has to send before a backend is chosen.
func (w *worker) hear(c *conn) {
	for {
		n, out := w.sockets.Read(c.pair.FD(reactor.Client), c.early.room())
		if out == reactor.Wait {
			return
		}
		c.early.have += n
		done, why := false, endOpen
		if n > 0 {
			done, why = c.hear(c.early, w.group.front.port.routes.Load(), w.sockets.scratch[:0])
		}
		if !done && out != reactor.Moved {
			done, why = true, c.cutShort(c.early, io.EOF)
		}
		switch {
		case !done:
			continue
		case why != endOpen:
			w.end(c, why, why.resets())
		default:
			w.enter(c)
		}
		return
	}
}

func (w *worker) dropEarly(c *conn) {
	if c.early != nil {
		c.early.free()
		c.early = nil
	}
}

// enter lets the client in, or resets it: many of them must leave nothing behind.
func (w *worker) enter(c *conn) {
	if why := c.account.enter(); why != endOpen {
		w.end(c, why, true)
		return
	}
	if c.service.tls != nil {
		w.handOver(c)
		return
	}
	w.choose(c)
}

// handOver has goroutines serve a client whose TLS is ours.
func (w *worker) handOver(c *conn) {
	fd := c.pair.FD(reactor.Client)
	w.control(unix.EPOLL_CTL_DEL, fd, 0, unix.EpollEvent{})
	first := bytes.Clone(c.early.early())
	w.dropEarly(c)
	w.wheel.Stop(c.key.id + firstTimer)
	s := &session{account: c.account, front: &w.group.front}
	w.conns.Put(c.key.id)
	*c = conn{}
	c.pair.Init(-1)
	// A worker counts what it serves, and may end before this does.
	s.count.cancel()
	s.count = &w.server.Metrics.counters
	s.count.begin()
	set := w.set
	w.group.front.serving.Go(func() {
		file := os.NewFile(uintptr(fd), "client")
		socket, err := net.FileConn(file)
		file.Close()
		if err != nil { // there are no more descriptors
			s.account.finish(endHandshake, 0, 0, time.Now())
			return
		}
		s.client.connection = socket.(*net.TCPConn)
		s.begin(first, set)
	})
}

// preload has sent to the backend first what it is to be told of the client,
// and what has come of it.
func (w *worker) preload(c *conn) {
	if c.early == nil && c.dialed.ProxyOut == mesh.ProxyOff {
		return
	}
	first := w.sockets.scratch[:0]
	if v := c.dialed.ProxyOut; v != mesh.ProxyOff {
		first = append(first, c.greeting(v, localOf(c.pair.FD(reactor.Client)))...)
	}
	if c.early != nil {
		first = append(first, c.early.early()...)
	}
	w.dropEarly(c)
	c.pair.Preload(&w.sockets, first)
}
