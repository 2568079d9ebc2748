package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/internal/descriptor"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// The connections of older generations count like this one's: for its own
// choices, and for the other POPs', whom it tells of both. Each older one sends
// all its counts a few times a second, to a socket that each newer one inherits.

const (
	reportEvery  = 250 * time.Millisecond
	elderSilence = 5 * time.Second // after which its process is taken for gone, and its connections with it
	elderGone    = time.Minute     // after which nobody listens any more
	countsAtOnce = 200             // in one message, which the kernel keeps whole
)

// elderCounts is one message: some of the backends that have connections.
type elderCounts struct {
	First  bool             `json:"first,omitempty"` // of a complete list
	Last   bool             `json:"last,omitempty"`
	Over   bool             `json:"over,omitempty"` // the process ends
	Counts map[string]int64 `json:"counts,omitempty"`
}

// sendCounts sends a complete list. It may fail where nobody reads: then there
// is nobody to whom it matters.
func sendCounts(conn net.Conn, counts map[string]int64, over bool) {
	_ = conn.SetWriteDeadline(time.Now().Add(reportEvery))
	m := elderCounts{First: true, Counts: map[string]int64{}}
	send := func() {
		body, _ := json.Marshal(m) // of names and numbers
		_, _ = conn.Write(body)
		m = elderCounts{Counts: map[string]int64{}}
	}
	for id, n := range counts {
		if m.Counts[id] = n; len(m.Counts) == countsAtOnce {
			send()
		}
	}
	m.Last, m.Over = true, over
	send()
}

// elders are the older generations that drain.
type elders struct {
	mu    sync.Mutex
	slots *route.Slots // where they are counted, from listen on
	conns map[net.Conn]*elder
	all   sync.WaitGroup
}

// elder is one of them, as far as it is known.
type elder struct {
	counts map[string]int64 // as counted
	coming map[string]int64 // of a list that is not complete; nil: none
}

// listen reads of the older generations until close.
func (e *elders) listen(files []*os.File, slots *route.Slots) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.slots, e.conns = slots, map[net.Conn]*elder{}
	for _, f := range files {
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("inherited socket %s: %w", socketElder, err)
		}
		one := &elder{}
		e.conns[conn] = one
		e.all.Go(func() { e.read(conn, one) })
	}
	return nil
}

func (e *elders) read(conn net.Conn, one *elder) {
	buf := make([]byte, 64<<10)
	heard := time.Now()
	for {
		_ = conn.SetReadDeadline(time.Now().Add(elderSilence))
		n, err := conn.Read(buf)
		var m elderCounts
		switch {
		case err == nil && json.Unmarshal(buf[:n], &m) == nil:
			heard = time.Now()
			e.take(one, m)
		case err == nil:
			continue // no message of ours
		case errors.Is(err, net.ErrClosed):
			return // the next generation reads on
		default:
			m.Over = time.Since(heard) > elderGone
			e.count(one, nil)
		}
		if m.Over {
			e.count(one, nil)
			e.mu.Lock()
			delete(e.conns, conn)
			e.mu.Unlock()
			conn.Close()
			return
		}
	}
}

// take counts a list that is complete.
func (e *elders) take(one *elder, m elderCounts) {
	if m.First {
		one.coming = map[string]int64{}
	}
	if one.coming == nil {
		return // its beginning went to the generation before
	}
	for id, n := range m.Counts {
		one.coming[id] = max(n, 0)
	}
	if m.Last {
		e.count(one, one.coming)
		one.coming = nil
	}
}

func (e *elders) count(one *elder, counts map[string]int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, n := range counts {
		if delta := n - one.counts[id]; delta != 0 {
			e.slots.Inherit(id, delta)
		}
	}
	for id, n := range one.counts {
		if _, still := counts[id]; !still {
			e.slots.Inherit(id, -n)
		}
	}
	one.counts = counts
}

// active is how many connections they have.
func (e *elders) active() (n int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, one := range e.conns {
		for _, c := range one.counts {
			n += c
		}
	}
	return n
}

// files are copies of the sockets, for the next generation.
func (e *elders) files() (files []*os.File, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for conn := range e.conns {
		f, ferr := descriptor.Copy(conn.(*net.UnixConn))
		if err = errors.Join(err, ferr); ferr == nil {
			files = append(files, f)
		}
	}
	return files, err
}

// close stops reading, and counting: the next generation reads on, and this
// one tells it of its own connections alone.
func (e *elders) close() {
	e.mu.Lock()
	conns := e.conns
	e.conns = nil
	e.mu.Unlock()
	for conn := range conns {
		conn.Close()
	}
	e.all.Wait()
	for _, one := range conns {
		e.count(one, nil)
	}
}
