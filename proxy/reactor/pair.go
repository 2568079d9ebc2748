// Package reactor is what the epoll relay computes: how a pair of sockets moves
// on when it may, when its timers are due, and where its state lies.
//
//	var p reactor.Pair
//	p.Init(clientFD)
//	p.Join(backendFD)
//	p.Ready(reactor.Client, reactor.Readable) // what epoll said
//	switch p.Step(sockets, 1<<20) {           // reads, writes, passes ends on
//	case reactor.More: // it has used up its turn: others first, then Step again
//	case reactor.Closed, reactor.ClientBroke …: // close both
//	}
//
// Step never waits: it stops where a socket would, and goes on there when that
// socket is ready. A buffer or a pipe is borrowed only while bytes are in
// flight that the receiver does not take. The package makes no system call and
// reads no clock: sockets and times are arguments. Package proxy has the edges.
package reactor

// Side is one end of a pair.
type Side uint8

const (
	Client Side = iota
	Backend
)

// Readiness is what is known of a socket.
type Readiness uint8

const (
	Readable Readiness = 1 << iota // it may have bytes or an end to read
	Writable                       // it may take bytes
	Finished                       // a FIN or reset has arrived: read on until that is met
	Failed                         // it has been reset
	Urgent                         // it has or had urgent data (RFC 6093), where a read stops short and a pipe altogether
)

// Outcome is how a call on a socket ended.
type Outcome uint8

const (
	Moved  Outcome = iota // so many bytes
	Wait                  // nothing now
	End                   // FIN, of a read
	Broken                // reset, or gone in another way
	Unfit                 // a pipe does not do here
)

// Pipe carries bytes from one socket to another inside the kernel. The zero
// value is none: descriptor 0 is never a pipe's reading end.
type Pipe struct{ R, W int32 }

// Sockets are the calls that a pair makes. None of them may wait.
type Sockets interface {
	Read(fd int32, b []byte) (int, Outcome)
	Write(fd int32, b []byte) (int, Outcome)
	Fill(p Pipe, fd int32) (int, Outcome)         // from the socket into the empty pipe
	Drain(p Pipe, n int, fd int32) (int, Outcome) // from the pipe, which has n bytes, into the socket
	Shut(fd int32) Outcome                        // sends a FIN; Moved or Broken

	Scratch() []byte          // for one read; its content is lost at the next
	Buffer() *[]byte          // at least as long as Scratch
	PutBuffer(*[]byte)        //
	Pipe() (Pipe, bool)       // false: there is none to be had
	PutPipe(p Pipe, left int) // with bytes left it is of no more use
}

// Status is where Step has left a pair.
type Status uint8

const (
	Idle        Status = iota // it waits for a socket
	More                      // it would go on, but others are waiting
	Closed                    // both directions have ended with a FIN
	ClientBroke               // the client reset it: reset the backend too
	BackendBroke
	BackendGone // the backend reset it after its end: nothing is left to relay, nothing to cut off
)

// Pair is two sockets and the bytes between them. The zero value needs Init.
type Pair struct {
	fds   [2]int32
	ready [2]Readiness
	flows [2]flow // by the side that is read
}

// flow is one direction.
type flow struct {
	ended  bool // the source's FIN has been read
	passed bool // and the destination has been told
	bulky  bool // the last turn moved enough to splice in the next

	pipe    Pipe
	piped   int32 // bytes in pipe, that the destination did not take
	at, end int32 // the same in buffer
	buffer  *[]byte
	bytes   int64 // delivered
}

// Init begins with the client's socket; the backend's comes with Join.
func (p *Pair) Init(client int32) {
	*p = Pair{fds: [2]int32{client, -1}, ready: [2]Readiness{Writable, 0}}
}

// Join takes a socket for the backend's, in place of one that did not connect.
func (p *Pair) Join(backend int32) { p.fds[Backend], p.ready[Backend] = backend, Writable }

// FD is the descriptor of a side, -1 where it has none.
func (p *Pair) FD(s Side) int32 { return p.fds[s] }

// Ready adds to what is known of a side.
func (p *Pair) Ready(s Side, r Readiness) { p.ready[s] |= r }

// Half says that one direction has ended and the other has not.
func (p *Pair) Half() bool { return p.flows[Client].passed != p.flows[Backend].passed }

// Bytes are those delivered so far: in to the backend, out to the client.
func (p *Pair) Bytes() (in, out int64) { return p.flows[Client].bytes, p.flows[Backend].bytes }

// Holds says that bytes are in flight.
func (p *Pair) Holds() bool { return p.flows[Client].holds() || p.flows[Backend].holds() }

func (f *flow) holds() bool { return f.piped > 0 || f.buffer != nil }

// Preload sends b, which has been read already, before what the client's
// socket has. Call it before the first Step; b is at most as long as Scratch.
func (p *Pair) Preload(s Sockets, b []byte) { p.flows[Client].keep(s, b) }

func (f *flow) keep(s Sockets, b []byte) {
	if len(b) == 0 {
		return
	}
	f.buffer = s.Buffer()
	f.at, f.end = 0, int32(copy(*f.buffer, b))
}

// Step moves what can be moved now: of each direction the first turn of bytes,
// and what one more call moves.
func (p *Pair) Step(s Sockets, turn int) Status {
	// Who reads a socket that was reset meets that behind the bytes that came
	// before, which are still wanted. But a client that is gone wants no more.
	if up := &p.flows[Client]; p.ready[Client]&Failed != 0 && (up.ended || up.holds()) {
		return ClientBroke
	}
	more := false
	for _, from := range [...]Side{Client, Backend} {
		switch p.flow(s, from, turn) {
		case More:
			more = true
		case ClientBroke:
			return ClientBroke
		case BackendBroke:
			return BackendBroke
		}
	}
	up, down := &p.flows[Client], &p.flows[Backend]
	switch {
	case up.passed && down.passed:
		return Closed
	case p.ready[Client]&Failed != 0 && (up.ended || up.holds()):
		return ClientBroke
	case p.ready[Backend]&Failed != 0 && down.passed:
		return BackendGone
	case more:
		return More
	}
	return Idle
}

// broke is the status for a side that is broken.
func broke(s Side) Status { return ClientBroke + Status(s) }

// flow moves one direction, from the side named.
func (p *Pair) flow(s Sockets, from Side, turn int) Status {
	f, to := &p.flows[from], 1-from
	for moved := 0; ; {
		if status, ok := p.flush(s, f, to); !ok {
			return status
		}
		if f.ended {
			return p.pass(s, f, from)
		}
		if p.ready[from]&Readable == 0 {
			return Idle
		}
		if moved >= turn {
			return More
		}
		n, status := p.move(s, f, from)
		if status != Idle {
			return status
		}
		moved += n
	}
}

// pass tells the destination that the source has ended.
func (p *Pair) pass(s Sockets, f *flow, from Side) Status {
	if f.passed {
		return Idle
	}
	f.passed = true
	// Where the other direction has ended before, closing both says it all.
	if !p.flows[1-from].passed && s.Shut(p.fds[1-from]) == Broken {
		return broke(1 - from)
	}
	return Idle
}

// flush delivers what is held. Not ok: some is left, or the destination broke.
func (p *Pair) flush(s Sockets, f *flow, to Side) (Status, bool) {
	for f.holds() {
		if p.ready[to]&Writable == 0 {
			return Idle, false
		}
		var n int
		var out Outcome
		if f.piped > 0 {
			n, out = s.Drain(f.pipe, int(f.piped), p.fds[to])
		} else {
			n, out = s.Write(p.fds[to], (*f.buffer)[f.at:f.end])
		}
		switch out {
		case Wait:
			p.ready[to] &^= Writable
			return Idle, false
		case Moved:
			f.delivered(s, n)
		default:
			return broke(to), false
		}
	}
	return Idle, true
}

// delivered counts what was held and has been taken, and gives back what carried it.
func (f *flow) delivered(s Sockets, n int) {
	f.bytes += int64(n)
	if f.piped > 0 {
		if f.piped -= int32(n); f.piped == 0 {
			s.PutPipe(f.pipe, 0)
			f.pipe = Pipe{}
		}
		return
	}
	if f.at += int32(n); f.at == f.end {
		s.PutBuffer(f.buffer)
		f.buffer = nil
	}
}

// move reads once and delivers what it can; the rest is held.
func (p *Pair) move(s Sockets, f *flow, from Side) (int, Status) {
	if f.bulky {
		if pipe, ok := s.Pipe(); ok {
			if n, status, fit := p.splice(s, f, from, pipe); fit {
				return n, status
			}
		}
		f.bulky = false // the scratch does as well
	}
	b := s.Scratch()
	n, out := s.Read(p.fds[from], b)
	if out != Moved {
		return 0, p.stopped(f, from, out)
	}
	f.bulky = n == len(b)
	if n < len(b) && p.ready[from]&(Finished|Urgent) == 0 {
		p.ready[from] &^= Readable // that was all; what comes later is an edge of its own
	}
	m, out := s.Write(p.fds[1-from], b[:n])
	switch out {
	case Moved:
		f.bytes += int64(m)
	case Wait:
		m = 0
	default:
		return 0, broke(1 - from)
	}
	f.keep(s, b[m:n])
	return n, Idle
}

// stopped is what a source that gave no bytes means.
func (p *Pair) stopped(f *flow, from Side, out Outcome) Status {
	switch out {
	case Wait:
		p.ready[from] &^= Readable
	case End:
		f.ended = true
	default:
		return broke(from)
	}
	return Idle
}

// splice is move for bulk. Not fit: it has done nothing.
func (p *Pair) splice(s Sockets, f *flow, from Side, pipe Pipe) (int, Status, bool) {
	n, out := s.Fill(pipe, p.fds[from])
	if out != Moved {
		s.PutPipe(pipe, 0)
		// Before urgent data a pipe meets an end or nothing, whatever comes
		// behind: that takes a read to tell.
		if out == Unfit || out == End || out == Wait && p.ready[from]&Urgent != 0 {
			return 0, Idle, false
		}
		f.bulky = out == Wait // a stream that pauses goes on like that
		return 0, p.stopped(f, from, out), true
	}
	if n < len(s.Scratch()) {
		f.bulky = false // no bulk any more
	}
	f.pipe, f.piped = pipe, int32(n)
	return n, Idle, true // flush is next
}

// Release gives back what the pair has borrowed. The bytes in flight are lost.
func (p *Pair) Release(s Sockets) {
	for i := range p.flows {
		f := &p.flows[i]
		if f.piped > 0 {
			s.PutPipe(f.pipe, int(f.piped))
		}
		if f.buffer != nil {
			s.PutBuffer(f.buffer)
		}
		f.piped, f.buffer = 0, nil
	}
}
