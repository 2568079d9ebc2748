package proxy

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/edgeproxy/edgeproxy/proxy/sni"
)

// prelude is what a client has to send before a backend is chosen for it: a
// PROXY header where one is due, a ClientHello where the port has several
// services. What of it is the backend's is sent there first.
//
//	header due ── complete: may it connect? ── hello due ── complete: whose is it? ── done
type prelude struct {
	bytes  []byte // usual, or a whole buffer's part
	whole  *[]byte
	from   int // where the backend's begin
	have   int
	header bool // a PROXY header is due
	parser sni.Parser
	usual  [usualPrelude]byte
}

// Most clients send less than usualPrelude; who opens thousands of connections
// and sends little holds no more. longestPrelude leaves room before it for a
// greeting, in one buffer.
const (
	usualPrelude   = 2 << 10
	longestPrelude = bufferSize - greetingRoom
)

var preludes = sync.Pool{New: func() any { return new(prelude) }}

func newPrelude(header bool) *prelude {
	p := preludes.Get().(*prelude)
	p.bytes, p.from, p.have, p.header, p.parser = p.usual[:], 0, 0, header, sni.Parser{}
	return p
}

func (p *prelude) free() {
	if p.whole != nil {
		buffers.Put(p.whole)
		p.whole = nil
	}
	preludes.Put(p)
}

// room is where the next bytes go; there is some until longestPrelude have come.
func (p *prelude) room() []byte {
	if p.have == len(p.bytes) && p.whole == nil {
		p.whole = buffers.Get().(*[]byte)
		copy(*p.whole, p.bytes)
		p.bytes = (*p.whole)[:longestPrelude]
	}
	return p.bytes[p.have:]
}

// early is what has come for the backend.
func (p *prelude) early() []byte { return p.bytes[p.from:p.have] }

// hello is whom a TLS client asks for.
type hello struct {
	name string
	alpn string // what was agreed on, where we are the server
}

var errHelloRoom = fmt.Errorf("ClientHello, with the PROXY header before it if there is one, longer than %d bytes", longestPrelude)

// hear looks at what has come so far. It is done when nothing is due any more,
// or when that will never come: then end says why.
func (a *account) hear(p *prelude, r *routes, scratch []byte) (done bool, why end) {
	if p.header {
		from, length, err := scanHeader(p.bytes[:p.have])
		switch {
		case err != nil:
			return true, a.badHeader(err)
		case length == 0:
			return false, endOpen
		}
		a.take(from)
		p.header, p.from = false, length
		if why := a.admit(); why != endOpen {
			return true, why
		}
	}
	if r.plain != nil {
		a.service = r.plain // also where the port has had names until just now
		return true, endOpen
	}
	if p.have == p.from {
		return false, endOpen
	}
	h, need, err := p.parser.Parse(p.early(), scratch)
	if err == nil && need > longestPrelude-p.have {
		err = errHelloRoom
	}
	switch {
	case err != nil:
		return true, a.badHello(err)
	case need > 0:
		return false, endOpen
	}
	return true, a.called(h.Name, r)
}

// called finds the service that the client asks for.
func (a *account) called(name string, r *routes) end {
	var ok bool
	if a.service, ok = r.names.Lookup(name); !ok {
		a.service = &noService
		a.server.perClient.Warn().Stringer("client", a.peer).Str("name", name).Msg("no service has the name that a TLS client asks for")
		return endUnknownName
	}
	a.hello = &hello{name: name}
	return endOpen
}

// noService is that of a connection before it is known whom the client asks for.
var noService service

// cutShort is how a connection ends of which no more comes.
func (a *account) cutShort(p *prelude, err error) end {
	if p.header {
		return a.badHeader(fmt.Errorf("PROXY header incomplete after %d bytes: %w", p.have, err))
	}
	return a.badHello(fmt.Errorf("ClientHello incomplete after %d bytes: %w", p.have-p.from, err))
}

// badHello books that the client did not begin with a TLS handshake. Load
// balancers look whether a port is open: that is no reason to say anything.
func (a *account) badHello(err error) end {
	e := a.server.perClient.Warn()
	if errors.Is(err, io.EOF) {
		e = a.server.log.Debug()
	}
	e.Err(err).Stringer("client", a.peer).Msg("TLS client refused")
	return endBadHello
}

// alert is what a TLS client is told when its connection ends before it began.
func (e end) alert() string {
	switch e {
	case endBadHello:
		return sni.AlertDecodeError
	case endUnknownName:
		return sni.AlertUnrecognizedName
	}
	return ""
}

// resets says that a client is not even told goodbye: many of them must leave
// nothing behind.
func (e end) resets() bool {
	return e == endDenied || e == endTooMany || e == endTooFast || e == endServiceFull
}
