package gossip

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// stream is one connection to a peer. Its goroutines:
//
//	read   frames -> inbox -> applier (Mesh)
//	work   what takes the store: answers to pulls, digests -> out
//	write  queue, control, out -> frames
type stream struct {
	m        *Mesh
	peer     *peer // set by enter
	node     string
	addr     string
	dialed   bool   // by us
	protocol uint64 // that both speak
	claim    claim
	conn     *tls.Conn
	frames   *frameReader
	in       *patient

	queue queue         // deltas for the peer
	wake  chan struct{} // 1: for write, that something is to be sent
	out   chan []byte   // frames of work; unbuffered, so that it waits for the peer
	jobs  chan job      // maxJobs: more than an honest peer can have open

	closing chan struct{}
	once    sync.Once
	cause   error // why it closes; read after closing

	mu        sync.Mutex
	control   [][]byte // small frames, in order
	keyring   string   // the document that the peer knows we have
	pings     uint64
	pinged    time.Time     // when the last ping was sent
	ponged    chan struct{} // closed by the next pong; nil: nobody waits
	pingNow   bool
	inbox     inbox
	load      *Load // that waits to be sent; a peer of protocol 1 gets none
	loadAt    time.Time
	notes     notes // that wait to be sent
	turns     map[string]turn
	beats     map[string]waitingBeat // by origin
	beatOrder []string

	wholeDue atomic.Bool // all of our load is to be sent

	// Guarded by Mesh.mu.
	said         crdt.Heads // what the peer knows that we have
	saidAt       time.Time
	saidVersion  uint64 // Mesh.version that said was compared with
	sayAll       bool
	want         crdt.Heads // what the peer has and we lacked when it was noticed
	pullAt       time.Time  // when to pull it; zero: nothing is lacking
	pull         *pull      // the one that is being answered
	pulls        uint64
	gap          bool // something was lost here: no range counts before the next pull's end
	compare      *comparison
	mine, theirs linkMode
	class        class
	classed      bool
	idle         time.Time // since when it is a line
	census       int64     // the latest that the peer knows of
	censusAt     time.Time // when it was told of one

	parts      *beat // the reader's: of a beat that is not complete
	partsTaken int

	saidTables []string        // write's: as declared to the peer
	declared   map[string]bool // by the peer; guarded by mu

	partial bool // the applier's: the last delta had no ranges, the next continues it
}

func newStream(m *Mesh, conn *tls.Conn, node, addr string, dialed bool) *stream {
	s := &stream{
		m: m, node: node, addr: addr, dialed: dialed, conn: conn,
		queue: queue{limit: m.cfg.QueueKeys},
		wake:  make(chan struct{}, 1), out: make(chan []byte), jobs: make(chan job, maxJobs),
		closing: make(chan struct{}), inbox: inbox{space: make(chan struct{}, 1)},
	}
	s.in = &patient{conn: conn, limit: m.cfg.Dead, until: time.Now().Add(m.cfg.Handshake), heard: func(int) {}}
	s.frames = newFrameReader(s.in, m.cfg.MaxFrame)
	return s
}

// run lives as long as the stream, and says why it ended: nil with ctx.
func (s *stream) run(ctx context.Context) error {
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	s.in.until = time.Time{}
	s.in.heard = func(n int) { s.peer.traffic.bytesIn.Add(uint64(n)) }
	if s.m.cfg.Keyring != nil {
		s.sendKeyring(s.m.cfg.Keyring()) // where it changed since hello
	}
	if s.full() {
		s.putWhole()
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.close(s.read(work)) })
	wg.Go(func() { s.work(work) })
	wg.Go(func() { // a Write that hangs must not outlive the stream
		select {
		case <-s.closing:
		case <-ctx.Done():
		}
		cancel()
		_ = s.conn.SetWriteDeadline(time.Now().Add(goodbye))
	})
	err := s.write(ctx)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		s.hearOut(ctx)
	}
	s.close(err)
	_ = s.conn.NetConn().Close()
	wg.Wait()
	s.m.leave(s, s.cause)
	return s.cause
}

// hearOut lets read have what the peer sent before it closed the stream, and
// which is here already where a write finds it closed.
func (s *stream) hearOut(ctx context.Context) {
	t := time.NewTimer(goodbye)
	defer t.Stop()
	select {
	case <-s.closing:
	case <-t.C:
	case <-ctx.Done():
	}
}

// close ends the stream; the first cause stays.
func (s *stream) close(err error) {
	s.once.Do(func() {
		s.cause = err
		close(s.closing)
	})
}

func (s *stream) ended() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// full says whether the peer is one of a full mesh, as seen from here.
func (s *stream) full() bool {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return s.class == classFull
}

// put queues a delta for the peer.
func (s *stream) put(d crdt.Delta) {
	if s.queue.put(d) {
		s.m.stats.dropped.Add(uint64(len(d.Records)))
	}
	notify(s.wake)
}

// send queues a small frame. A peer that makes us send so many, and reads
// none, is let go.
func (s *stream) send(frame []byte) {
	s.mu.Lock()
	s.control = append(s.control, frame)
	full := len(s.control) > maxControl
	s.mu.Unlock()
	if full {
		s.close(errors.New("it asks without listening to the answers"))
	}
	notify(s.wake)
}

// sendKeyring sends the document to a peer that does not have it from us.
func (s *stream) sendKeyring(document []byte) {
	if s.saidKeyring(document) {
		s.send(appendFrame(nil, kindKeyring, func(b []byte) []byte { return append(b, document...) }))
	}
}

// saidKeyring notes what the peer is being told, and whether it is news.
func (s *stream) saidKeyring(document []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := len(document) > 0 && s.keyring != string(document)
	s.keyring = string(document)
	return news
}

// probe says whether the peer still answers on this stream.
func (s *stream) probe(ctx context.Context) bool {
	s.mu.Lock()
	if s.ponged == nil {
		s.ponged = make(chan struct{})
	}
	ponged := s.ponged
	s.pingNow = true
	s.mu.Unlock()
	notify(s.wake)
	t := time.NewTimer(probeWait)
	defer t.Stop()
	select {
	case <-ponged:
		return true
	case <-s.closing:
	case <-t.C:
	case <-ctx.Done():
		return true // not known: the old one stays
	}
	return false
}

// read takes frames until one is bad or the stream ends.
func (s *stream) read(ctx context.Context) error {
	for {
		k, body, err := s.frames.next()
		if err == nil {
			err = s.handle(ctx, k, body)
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF):
			err = errors.New("the peer closed the stream")
		case ctx.Err() != nil:
			return nil
		}
		return fmt.Errorf("read: %w", err)
	}
}

// handle is for one frame. The body is not kept.
func (s *stream) handle(ctx context.Context, k kind, body []byte) error {
	switch k {
	case kindDelta:
		return with(decodeDelta, body, func(f deltaFrame) error { return s.tookDelta(ctx, f, len(body)) })
	case kindHeads:
		return with(decodeHeads, body, s.tookHeads)
	case kindPull:
		return with(decodePull, body, func(f pullFrame) error { return s.ask(job{pull: &f}) })
	case kindPulled:
		return with(decodePulled, body, func(f pulledFrame) error { return s.tookPulled(ctx, f, len(body)) })
	case kindDigest:
		return with(decodeDigest, body, func(f digestFrame) error { return s.ask(job{digest: &f}) })
	case kindSums:
		return with(decodeSums, body, func(f sumsFrame) error { return s.ask(job{sums: &f}) })
	case kindRows:
		return with(decodeRows, body, func(f rowsFrame) error { return s.ask(job{rows: &f}) })
	case kindPing:
		return with(decodePing, body, func(id uint64) error {
			s.send(appendFrame(nil, kindPong, pongFrame{id: id, clock: s.m.clock()}.append))
			return nil
		})
	case kindPong:
		return with(decodePong, body, s.tookPong)
	case kindKeyring:
		return with(decodeKeyring, body, s.m.takeKeyring)
	case kindLoad:
		return with(decodeLoad, body, s.tookLoad)
	case kindTables:
		return with(decodeTables, body, s.tookTables)
	case kindNote:
		return with(decodeNote, body, s.tookNote)
	case kindLink:
		return with(decodeLink, body, s.tookLink)
	case kindPrune:
		return with(decodeOrigins, body, s.tookPrune)
	case kindGraft:
		return with(decodeGraft, body, s.tookGraft)
	case kindBeat:
		return with(decodeBeat, body, s.tookBeat)
	case kindCensus:
		return with(decodeCensus, body, s.tookCensus)
	case kindBye:
		return with(decodeBye, body, func(f byeFrame) error { return &byeError{f} })
	}
	return garbage(fmt.Errorf("kind %d", k))
}

// with decodes a body and hands it on.
func with[T any](decode func([]byte) (T, error), body []byte, take func(T) error) error {
	f, err := decode(body)
	if err != nil {
		return garbage(err)
	}
	return take(f)
}

func (s *stream) tookPong(f pongFrame) error {
	s.mu.Lock()
	if s.ponged != nil {
		close(s.ponged)
		s.ponged = nil
	}
	latest, rtt := f.id == s.pings, time.Since(s.pinged)
	s.mu.Unlock()
	if latest {
		s.m.mu.Lock()
		s.peer.clock.add(sampleOf(f.clock, s.m.clockLocked(), rtt))
		s.m.mu.Unlock()
	}
	return nil
}
