package reactor

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

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
