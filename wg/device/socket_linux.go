package device

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketDir is where wg(8) and wgctrl look for devices of processes.
const socketDir = "/var/run/wireguard"

// socket is where wg(8) asks and orders.
type socket struct {
	listener net.Listener
	path     string
	serving  sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// openSocket lets handle answer there; handle closes the connection. What a
// killed process has left at the same name is removed, if nobody answers.
func openSocket(dir, name string, handle func(net.Conn)) (*socket, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name+".sock")
	// wg(8) removes a socket on which nobody listens, and that is what it is
	// between bind and listen: so it gets its name only afterwards.
	own := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(own) // of a process that had our number, and was killed just then
	l, err := listenUnix(own)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(nameSocket(own, path), os.Remove(own)); err != nil {
		l.Close()
		return nil, err
	}
	s := &socket{listener: l, path: path, conns: make(map[net.Conn]struct{})}
	s.serving.Go(func() { s.accept(handle) })
	return s, nil
}

// nameSocket gives a socket its name, also where a killed process has left one.
func nameSocket(own, path string) error {
	err := os.Link(own, path)
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fmt.Errorf("%s: another process answers there", path)
	} else if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Link(own, path)
}

// listenUnix makes a socket that only we may open: who reads it knows the
// private key. On Linux a socket's mode before bind is the file's, so that
// there is no moment in between, nor a umask, which is the whole process's.
func listenUnix(path string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if err2 := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); err2 != nil {
			return err2
		}
		return err
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, nil
}

func (s *socket) accept(handle func(net.Conn)) {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.serving.Go(func() {
			handle(c)
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// close removes the file, too.
func (s *socket) close() error {
	err := os.Remove(s.path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil // somebody else has
	}
	err = errors.Join(err, s.listener.Close())
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
	return err
}
