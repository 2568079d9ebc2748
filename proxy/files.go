package proxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/edgeproxy/edgeproxy/internal/descriptor"
)

// Files are copies of the sockets that listen where ln does, ln's own first,
// for another process to serve (package handover): who waits in their queues
// is that one's. ln must be one that is being served.
func (s *Server) Files(ln *net.TCPListener) ([]*os.File, error) {
	return s.serving.files(ln)
}

// ErrNotServed is that of Files for a listener that is not served, or not yet.
var ErrNotServed = errors.New("not served")

// GiveAway says that listeners go on without this process, which another one
// serves or will: when their serving ends, nobody who waits in their queues is
// taken or refused here. Said before Serve, no other listeners are opened at
// their addresses, whose queues would end with this process.
func (s *Server) GiveAway(lns ...*net.TCPListener) { s.serving.give(lns) }

// inService are the listeners that are served, each with what copies it and
// those that share its address. The zero value is ready.
type inService struct {
	mu    sync.Mutex
	all   map[*net.TCPListener]func() ([]*os.File, error)
	given map[*net.TCPListener]bool // another process has them
}

func (s *inService) give(lns []*net.TCPListener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.given == nil {
		s.given = map[*net.TCPListener]bool{}
	}
	for _, ln := range lns {
		s.given[ln] = true
	}
}

func (s *inService) isGiven(ln *net.TCPListener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.given[ln]
}

func (s *inService) add(ln *net.TCPListener, files func() ([]*os.File, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[*net.TCPListener]func() ([]*os.File, error){}
	}
	s.all[ln] = files
}

func (s *inService) remove(ln *net.TCPListener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, ln)
	delete(s.given, ln)
}

func (s *inService) files(ln *net.TCPListener) ([]*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	files := s.all[ln]
	if files == nil {
		return nil, fmt.Errorf("%s: %w", ln.Addr(), ErrNotServed)
	}
	return files()
}

// copies are descriptors of the same sockets.
func copies(lns []*net.TCPListener) (files []*os.File, err error) {
	for _, ln := range lns {
		f, ferr := descriptor.Copy(ln)
		if err = errors.Join(err, ferr); ferr == nil {
			files = append(files, f)
		}
	}
	return files, err
}
