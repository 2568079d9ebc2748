package proxy

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// 100 MB in both directions at the same time arrive as they were sent.
func caseBulk(t *testing.T, start starter) {
	transfer(t, start, 100<<20, func(*rand.Rand) int { return 1_000_003 })
}

// So do bytes that are written in pieces of odd lengths.
func caseSmallChunks(t *testing.T, start starter) {
	transfer(t, start, 10<<20, func(rnd *rand.Rand) int { return 1 + rnd.IntN(1500) })
}

// transfer sends size bytes each way at once and compares digests.
func transfer(t *testing.T, start starter, size int, chunk func(*rand.Rand) int) {
	b := newBackend(t, nil)
	r := start(t, setup{targets: b.one()})
	client, server := pair(t, r, b)
	rnd := random(t)
	var work sync.WaitGroup
	for i, way := range [][2]*net.TCPConn{{client, server}, {server, client}} {
		chunks := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		sent := make(chan [sha256.Size]byte, 1)
		work.Go(func() {
			_ = way[0].SetWriteDeadline(time.Now().Add(4 * patience))
			h, s := sha256.New(), newStream(uint64(i))
			buf := make([]byte, 1<<20)
			for left := size; left > 0; {
				part := buf[:min(chunk(chunks), left)]
				s.read(part)
				h.Write(part)
				if _, err := way[0].Write(part); err != nil {
					t.Errorf("direction %d: write with %d bytes to go: %v", i, left, err)
					break
				}
				left -= len(part)
			}
			if err := way[0].CloseWrite(); err != nil {
				t.Errorf("direction %d: half-close: %v", i, err)
			}
			sent <- [sha256.Size]byte(h.Sum(nil))
		})
		work.Go(func() {
			_ = way[1].SetReadDeadline(time.Now().Add(4 * patience))
			h := sha256.New()
			n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{way[1]}, make([]byte, 100_003))
			if err != nil || n != int64(size) {
				t.Errorf("direction %d: %d bytes, %v; want %d", i, n, err, size)
			}
			if got, want := [sha256.Size]byte(h.Sum(nil)), <-sent; got != want {
				t.Errorf("direction %d: SHA-256 %x received, %x sent", i, got, want)
			}
		})
	}
	work.Wait()
	if got := r.ends(t, 1, endClosed); got.BytesIn != int64(size) || got.BytesOut != int64(size) {
		t.Errorf("access log: %d bytes in, %d out; want %d", got.BytesIn, got.BytesOut, size)
	}
}

// plan is what both sides of one transfer do.
type plan struct {
	id       uint64
	up, down way
	order    order
}

// way is one direction of a transfer.
type way struct{ size, chunk int } // bytes in all, and at most in one write

// order says whose half ends when.
type order int

const (
	atOnce      order = iota // neither waits for the other
	clientFirst              // the backend answers after it has read the client's end
	backendFirst
)

func (p plan) String() string {
	return fmt.Sprintf("transfer %d: %d bytes up, %d down, in chunks of up to %d and %d, order %d",
		p.id, p.up.size, p.down.size, p.up.chunk, p.down.chunk, p.order)
}

// randomPlan has sizes of 0 to 4 MB, two of three small, in chunks of 1 B to 64 KB.
func randomPlan(rnd *rand.Rand, id uint64) plan {
	ways := func() way {
		size := rnd.IntN(1 + 4<<20)
		if rnd.IntN(3) > 0 {
			size >>= rnd.IntN(23)
		}
		return way{size, 1 << rnd.IntN(17)}
	}
	return plan{id: id, up: ways(), down: ways(), order: order(rnd.IntN(3))}
}

// play does the part of the side that begins in the order named: it writes one
// way as the stream of an id, and reads the other.
func (p plan) play(c *net.TCPConn, first order, own uint64, out way, other uint64, in way) error {
	write := func() error { return writeChunks(c, own, out) }
	read := func() error { return readChunks(c, newStream(other), in.size) }
	switch p.order {
	case first: // and so the other side waits
		return errors.Join(write(), read())
	case atOnce:
		var reading sync.WaitGroup
		var err error
		reading.Go(func() { err = read() })
		werr := write()
		reading.Wait()
		return errors.Join(werr, err)
	}
	if err := read(); err != nil {
		return err
	}
	return write()
}

// writeChunks writes the stream of an id in chunks of random lengths; the last
// of very many are long.
func writeChunks(c *net.TCPConn, id uint64, w way) error {
	s, lengths := newStream(id), rand.New(rand.NewPCG(id, 0))
	buf := make([]byte, 64<<10)
	for i, left := 0, w.size; left > 0; i++ {
		n := len(buf)
		if i < 500 {
			n = 1 + lengths.IntN(w.chunk)
		}
		n = min(n, left)
		s.read(buf[:n])
		if _, err := c.Write(buf[:n]); err != nil {
			return fmt.Errorf("write with %d bytes to go: %w", left, err)
		}
		left -= n
	}
	return c.CloseWrite()
}

func readChunks(c *net.TCPConn, s *stream, left int) error {
	buf := make([]byte, 33<<10)
	for {
		n, err := c.Read(buf)
		if left -= n; left < 0 || !s.matches(buf[:n]) {
			return fmt.Errorf("read %d bytes that nobody sent, %d left", n, left)
		}
		if err == io.EOF && left == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read with %d bytes to come: %w", left, err)
		}
	}
}

// Whatever lengths are sent in whatever order, and whoever ends first, what
// arrives is what was sent, byte for byte, and then the end, in time.
func caseRandomTransfers(t *testing.T, start starter) {
	const workers = 8
	rnd := random(t)
	plans := make([]plan, often(200, 10_000))
	moved := 0
	for i := range plans {
		plans[i] = randomPlan(rnd, uint64(i))
		moved += plans[i].up.size + plans[i].down.size
	}
	b := newBackend(t, func(c *net.TCPConn) {
		var id [8]byte
		if _, err := io.ReadFull(c, id[:]); err != nil {
			t.Errorf("backend: id: %v", err)
			return
		}
		p := plans[binary.BigEndian.Uint64(id[:])]
		if err := p.play(c, backendFirst, 2*p.id+1, p.down, 2*p.id, p.up); err != nil {
			t.Errorf("%v: backend: %v", p, err)
		}
	})
	r := start(t, setup{targets: b.one()})

	var work sync.WaitGroup
	began, next := time.Now(), make(chan plan)
	for range workers {
		work.Go(func() {
			for p := range next {
				c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(r.addr))
				if err != nil {
					t.Error(err)
					continue
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				_, err = c.Write(binary.BigEndian.AppendUint64(nil, p.id))
				if err == nil {
					err = p.play(c, clientFirst, 2*p.id, p.up, 2*p.id+1, p.down)
				}
				if err != nil {
					t.Errorf("%v: client: %v", p, err)
				}
				c.Close()
			}
		})
	}
	for _, p := range plans {
		next <- p
	}
	close(next)
	work.Wait()
	r.idle(t)
	b.done(t)
	if n := r.Stats().Ended[endClosed.String()]; n != uint64(len(plans)) {
		t.Errorf("%d of %d connections ended closed: %v", n, len(plans), r.Stats().Ended)
	}
	t.Logf("%d transfers, %d MB, in %v", len(plans), moved>>20, time.Since(began).Round(time.Millisecond))
}

// Who does not read makes the other side wait; this process keeps next to
// nothing meanwhile, and the other connections go on.
func caseSlowReader(t *testing.T, start starter) {
	b := newBackend(t, nil)
	r := start(t, setup{targets: b.one()})
	client, server := pair(t, r, b)
	other, otherServer := pair(t, r, b)

	for _, way := range [][2]*net.TCPConn{{client, server}, {server, client}} {
		from, to := way[0], way[1]
		s := newStream(7)
		// That fill returns at all says that the writer was made to wait.
		size := mustFill(t, from, s)

		send(t, other, "still there?")
		expect(t, otherServer, "still there?")
		send(t, otherServer, "yes")
		expect(t, other, "yes")

		closeWrite(t, from)
		check := newStream(7)
		var got int64
		buf := make([]byte, 64<<10)
		for {
			n, err := to.Read(buf)
			if !check.matches(buf[:n]) {
				t.Fatalf("other bytes than were sent within %d of %d", got+int64(n), got)
			}
			if got += int64(n); err != nil {
				if err != io.EOF || got != size {
					t.Fatalf("%d bytes, %v; want %d and EOF", got, err, size)
				}
				break
			}
		}
	}
	r.ends(t, 1, endClosed)
}

// TestSlowReaderMemory: what a writer has sent and nobody reads is in the
// kernel's buffers, which it bounds, and not in this process.
func TestSlowReaderMemory(t *testing.T) {
	for _, impl := range implementations {
		b := newBackend(t, nil)
		r := start(t, impl.make, setup{targets: b.one()})
		const stalled = 10
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var work sync.WaitGroup
		for range stalled {
			client, _ := pair(t, r, b)
			work.Go(func() {
				if n, err := fill(client, newStream(1)); err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
		}
		work.Wait()
		runtime.GC()
		runtime.ReadMemStats(&after)
		// What the test itself keeps for a connection is in this as well.
		if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / stalled; each > 64<<10 {
			t.Errorf("%s: %d bytes of heap for each connection that nobody reads, want at most a buffer's", impl.name, each)
		}
	}
}

// However connections end, and whatever they leave in buffers and pipes that
// are used again, nobody ever receives a byte that was not sent to it.
func caseNoMixing(t *testing.T, start starter) {
	const connections, atOnce, size = 200, 12, 1 << 20
	rnd := random(t)
	b := newBackend(t, func(c *net.TCPConn) {
		var head [16]byte // id, and how many bytes to take before the abort
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return // the client aborted first
		}
		id, most := binary.BigEndian.Uint64(head[:]), int64(binary.BigEndian.Uint64(head[8:]))
		var work sync.WaitGroup
		work.Go(func() { flood(c, newStream(2*id+1), 2*size) })
		if err := drink(c, newStream(2*id), most); err != nil {
			t.Errorf("backend of %d: %v", id, err)
		}
		if most%2 == 0 {
			_ = c.SetLinger(0)
		}
		c.Close()
		work.Wait()
	})
	r := start(t, setup{targets: b.one()})
	var work sync.WaitGroup
	next := make(chan [3]int64)
	for range atOnce {
		work.Go(func() {
			for job := range next {
				id := uint64(job[0])
				c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(r.addr))
				if err != nil {
					t.Error(err)
					continue
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				head := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, id), uint64(job[1]))
				if _, err := c.Write(head); err != nil {
					t.Error(err)
				}
				var writing sync.WaitGroup
				writing.Go(func() { flood(c, newStream(2*id), 2*size) })
				if err := drink(c, newStream(2*id+1), job[2]); err != nil {
					t.Errorf("client %d: %v", id, err)
				}
				if job[2]%2 == 0 {
					_ = c.SetLinger(0)
				}
				c.Close()
				writing.Wait()
			}
		})
	}
	for i := range int64(connections) {
		next <- [3]int64{i, rnd.Int64N(size), rnd.Int64N(size)}
	}
	close(next)
	work.Wait()
	r.idle(t)
	b.done(t)
}

// flood writes size bytes or until it fails: the other side may abort.
func flood(c *net.TCPConn, s *stream, size int) {
	buf := make([]byte, 64<<10)
	for ; size > 0; size -= len(buf) {
		s.read(buf)
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// drink reads up to most bytes and says whether one is not the stream's.
func drink(c *net.TCPConn, s *stream, most int64) error {
	buf := make([]byte, 40<<10)
	for got := int64(0); got < most; {
		n, err := c.Read(buf)
		if !s.matches(buf[:n]) {
			return fmt.Errorf("wrong bytes between %d and %d", got, got+int64(n))
		}
		if got += int64(n); err != nil {
			return nil
		}
	}
	return nil
}
