package reactor

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

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
