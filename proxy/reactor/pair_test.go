package reactor

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// peer is the other end of a pair's socket, and the kernel in between.
type peer struct {
	sent    []byte // what it sends in all
	arrived int    // of this, what the socket has
	read    int    // of this, what the pair has read
	fin     bool   // its FIN follows what has arrived
	rst     bool
	urgent  bool // it has urgent data, after mark bytes of sent
	mark    int
	told    bool // the kernel has reported the reset to a call

	room  int    // bytes that the socket takes now
	full  bool   // a write was told to wait: room is an edge
	got   []byte // what it has received
	shut  bool   // and then the pair's FIN
	edges Readiness
}

// draw decides from lo to hi: rapid does, or the bytes of a fuzzer.
type draw func(lo, hi int, what string) int

func byRapid(t *rapid.T) draw {
	return func(lo, hi int, what string) int { return rapid.IntRange(lo, hi).Draw(t, what) }
}

// byBytes takes as few as a decision needs, so that a fuzzer that changes one
// changes one decision; when there are no more it is always lo.
func byBytes(b []byte) draw {
	return func(lo, hi int, _ string) int {
		v := 0
		for span := hi - lo; span > 0 && len(b) > 0; span >>= 8 {
			v, b = v<<8|int(b[0]), b[1:]
		}
		return lo + v%(hi-lo+1)
	}
}

// seeds are some long games to begin with.
func seeds(f *testing.F) {
	for i := range byte(12) {
		b := make([]byte, 64<<(i%4))
		_, _ = rand.NewChaCha8([32]byte{i}).Read(b)
		f.Add(b)
	}
}

// world is the Sockets of a test: what each call does is decided before.
type world struct {
	t       rapid.TB
	draw    draw
	peers   [2]peer // by descriptor
	pipes   map[Pipe][]byte
	buffers int
	nextFD  int32
	noPipes bool
	unfit   bool
	calls   int
	scratch [8]byte
}

// reach is how far one read gets: urgent data end it.
func (p *peer) reach() int {
	if p.urgent {
		return min(p.arrived, p.mark)
	}
	return p.arrived
}

// stopped says that urgent data are next.
func (p *peer) stopped() bool { return p.urgent && p.read == p.mark }

func (w *world) Read(fd int32, b []byte) (int, Outcome) {
	w.calls++
	p := &w.peers[fd]
	if p.stopped() {
		p.urgent = false // a read passes over it
	}
	switch n := copy(b, p.sent[p.read:p.reach()]); {
	case n > 0:
		p.read += n
		return n, Moved
	case p.rst && !p.told && !p.fin:
		p.told = true
		return 0, Broken
	case p.fin || p.rst: // a reset that somebody has been told of looks like an end
		return 0, End
	}
	return 0, Wait
}

func (w *world) Write(fd int32, b []byte) (int, Outcome) {
	w.calls++
	p := &w.peers[fd]
	if p.shut {
		w.t.Fatalf("written to %d after its FIN", fd)
	}
	if p.rst {
		p.told = true
		return 0, Broken
	}
	n := min(len(b), p.room)
	if n == 0 {
		p.full = true
		return 0, Wait
	}
	p.room -= n
	p.got = append(p.got, b[:n]...)
	return n, Moved
}

func (w *world) Fill(pipe Pipe, fd int32) (int, Outcome) {
	if w.unfit {
		return 0, Unfit
	}
	if len(w.pipes[pipe]) > 0 {
		w.t.Fatal("filled a pipe that holds bytes")
	}
	if p := &w.peers[fd]; p.stopped() && !p.rst {
		w.calls++
		if p.fin {
			return 0, End
		}
		return 0, Wait
	}
	b := make([]byte, 20)
	n, out := w.Read(fd, b)
	w.pipes[pipe] = b[:n]
	return n, out
}

func (w *world) Drain(pipe Pipe, n int, fd int32) (int, Outcome) {
	held := w.pipes[pipe]
	if n != len(held) {
		w.t.Fatalf("drain %d of a pipe with %d", n, len(held))
	}
	n, out := w.Write(fd, held)
	w.pipes[pipe] = held[n:]
	return n, out
}

func (w *world) Shut(fd int32) Outcome {
	p := &w.peers[fd]
	if p.shut {
		w.t.Fatalf("two FINs to %d", fd)
	}
	p.shut = true
	if p.rst {
		return Broken
	}
	return Moved
}

func (w *world) Scratch() []byte { return w.scratch[:] }
func (w *world) Buffer() *[]byte { w.buffers++; b := make([]byte, len(w.scratch)); return &b }
func (w *world) PutBuffer(*[]byte) {
	w.buffers--
}

func (w *world) Pipe() (Pipe, bool) {
	if w.noPipes {
		return Pipe{}, false
	}
	w.nextFD++
	p := Pipe{w.nextFD, -w.nextFD}
	w.pipes[p] = nil
	return p, true
}

func (w *world) PutPipe(p Pipe, left int) {
	if held, ok := w.pipes[p]; !ok || len(held) != left {
		w.t.Fatalf("a pipe with %d bytes given back with %d", len(held), left)
	}
	delete(w.pipes, p)
}

func (w *world) much(what string) int {
	if w.draw(0, 1, "few") == 0 {
		return w.draw(1, 10, what)
	}
	return w.draw(1, 300, what)
}

// happen lets something happen to a peer, as an edge for the pair.
func (w *world) happen(fd int) {
	p := &w.peers[fd]
	if p.rst {
		return
	}
	switch w.draw(0, 10, "happens") {
	case 0, 1, 2, 3: // bytes arrive
		if n := min(len(p.sent), p.arrived+w.much("bytes")); n > p.arrived {
			p.arrived = n
			p.edges |= Readable
		}
	case 4, 5, 6, 7:
		p.room += w.much("room")
		if p.full {
			p.full = false
			p.edges |= Writable
		}
	case 8:
		if p.arrived == len(p.sent) && !p.fin {
			p.fin = true
			p.edges |= Readable | Finished
		}
	case 9:
		if w.draw(0, 5, "reset") == 0 {
			p.rst = true
			p.edges |= Readable | Writable | Finished | Failed
		}
	case 10:
		if !p.fin { // of several only the last is urgent
			p.urgent, p.mark = true, p.arrived
			p.edges |= Urgent
		}
	}
}

// relent is all that is left to happen to a peer, for the better.
func (w *world) relent(fd int) {
	p := &w.peers[fd]
	if p.rst {
		return
	}
	if p.arrived < len(p.sent) || !p.fin {
		p.arrived, p.fin = len(p.sent), true
		p.edges |= Readable | Finished
	}
	p.room += 50
	if p.full {
		p.full = false
		p.edges |= Writable
	}
}

// report gives the pair what epoll would: the edges since the last time.
func (w *world) report(p *Pair) {
	for fd := range w.peers {
		if w.peers[fd].urgent && w.peers[fd].edges != 0 {
			w.peers[fd].edges |= Urgent // said as long as it is so
		}
		p.Ready(Side(fd), w.peers[fd].edges)
		w.peers[fd].edges = 0
	}
}

// settle gives turns until none is asked for.
func (w *world) settle(p *Pair) Status {
	for range 10000 {
		w.report(p)
		before := w.calls
		status := p.Step(w, 16)
		if n := w.calls - before; n > 30 {
			w.t.Fatalf("%d calls in one turn of 16 bytes each way", n)
		}
		if status == Idle {
			if before = w.calls; p.Step(w, 16) != Idle || w.calls > before {
				w.t.Fatal("calls though nothing has happened")
			}
		}
		if status != More {
			return status
		}
	}
	w.t.Fatal("turns without end")
	return 0
}

// check is what holds whenever a pair waits.
func (w *world) check(p *Pair) {
	for from, to := range [2]int{1, 0} {
		src, dst := &w.peers[from], &w.peers[to]
		if !bytes.HasPrefix(src.sent, dst.got) {
			w.t.Fatalf("%d got %q of %q", to, dst.got, src.sent)
		}
		flight := src.read - len(dst.got)
		if flight > 20 {
			w.t.Fatalf("%d bytes in flight, want at most a pipe's 20", flight)
		}
		if dst.room > 0 && !dst.full && !dst.rst && !src.rst && flight > 0 {
			w.t.Fatalf("%d bytes for %d held while it takes them", flight, to)
		}
		if dst.room > 0 && src.arrived > src.read && !dst.rst && !src.rst {
			w.t.Fatalf("%d bytes of %d unread while %d takes them", src.arrived-src.read, from, to)
		}
		if dst.shut && (!src.fin || len(dst.got) < len(src.sent)) {
			w.t.Fatalf("%d was sent a FIN after %d of %d bytes", to, len(dst.got), len(src.sent))
		}
	}
	if lent := w.buffers + len(w.pipes); p.Holds() != (lent > 0) || lent > 2 {
		w.t.Fatalf("%d buffers and %d pipes lent; in flight: %v", w.buffers, len(w.pipes), p.Holds())
	}
}

// playPair lets anything happen in any order, and checks that the pair ends as
// its sockets did.
func playPair(t rapid.TB, draw draw) {
	w := &world{t: t, draw: draw, pipes: map[Pipe][]byte{}, nextFD: 10}
	w.noPipes, w.unfit = draw(0, 1, "no pipes") == 1, draw(0, 1, "unfit") == 1
	for fd := range w.peers {
		for i := range draw(0, 300, "sent") {
			w.peers[fd].sent = append(w.peers[fd].sent, byte(i*(3+2*fd)))
		}
	}
	var p Pair
	p.Init(0)
	p.Join(1)
	if early := min(draw(0, 8, "early"), len(w.peers[0].sent)); early > 0 {
		w.peers[0].arrived, w.peers[0].read = early, early
		p.Preload(w, w.peers[0].sent[:early])
	}
	status := w.settle(&p)
	for range draw(0, 150, "happenings") {
		if status != Idle {
			break
		}
		w.happen(draw(0, 1, "to"))
		if draw(0, 1, "seen") == 1 {
			status = w.settle(&p)
			w.check(&p)
		}
	}
	for range 100 { // now everything arrives and everybody takes it
		if status != Idle {
			break
		}
		for fd := range w.peers {
			w.relent(fd)
		}
		status = w.settle(&p)
	}
	w.ends(&p, status)
}

// ends checks how it ended.
func (w *world) ends(p *Pair, status Status) {
	client, backend := &w.peers[0], &w.peers[1]
	in, out := p.Bytes()
	if in != int64(len(backend.got)) || out != int64(len(client.got)) {
		w.t.Fatalf("counted %d in, %d out; delivered %d, %d", in, out, len(backend.got), len(client.got))
	}
	switch {
	case status == Closed:
		if !bytes.Equal(client.got, backend.sent) || !bytes.Equal(backend.got, client.sent) {
			w.t.Fatalf("closed with %d of %d bytes in, %d of %d out", in, len(client.sent), out, len(backend.sent))
		}
	case status == ClientBroke && client.rst:
	case status == BackendBroke && backend.rst:
	case status == BackendGone && backend.rst && client.shut && bytes.Equal(client.got, backend.sent):
	default:
		w.t.Fatalf("ended with status %d; reset: client %v, backend %v", status, client.rst, backend.rst)
	}
	p.Release(w)
	if w.buffers != 0 || len(w.pipes) != 0 {
		w.t.Fatalf("%d buffers and %d pipes not given back", w.buffers, len(w.pipes))
	}
}

func TestPair(t *testing.T) { rapid.Check(t, func(t *rapid.T) { playPair(t, byRapid(t)) }) }

func FuzzPair(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, moves []byte) { playPair(t, byBytes(moves)) })
}

// A turn ends after its bytes, however many there are, and the next goes on.
func TestTurn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 1000
		w := &world{t: t, pipes: map[Pipe][]byte{}, nextFD: 10, noPipes: rapid.Bool().Draw(t, "no pipes")}
		for fd := range w.peers {
			w.peers[fd] = peer{sent: make([]byte, size), arrived: size, room: size, edges: Readable}
		}
		var p Pair
		p.Init(0)
		p.Join(1)
		w.report(&p)
		for last := int64(0); last < size; {
			status := p.Step(w, 16)
			in, out := p.Bytes()
			if in != out || in-last > 16+20 || in <= last || status != More && in < size {
				t.Fatalf("status %d after %d and %d bytes, of which %d before this turn", status, in, out, last)
			}
			last = in
		}
	})
}

// A backend that resets the connection after its FIN has been passed on has cut nothing off.
func TestBackendGone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, pipes: map[Pipe][]byte{}, nextFD: 10}
		w.peers[1] = peer{sent: []byte("answer"), arrived: 6, fin: true, edges: Readable | Finished}
		w.peers[0].room = 100
		var p Pair
		p.Init(0)
		p.Join(1)
		if status := w.settle(&p); status != Idle || !w.peers[0].shut || !p.Half() {
			t.Fatalf("status %d, half-close passed on: %v", status, w.peers[0].shut)
		}
		w.peers[1].rst = true
		w.peers[1].edges = Readable | Writable | Finished | Failed
		if status := w.settle(&p); status != BackendGone {
			t.Fatalf("status %d, want BackendGone", status)
		}
	})
}
