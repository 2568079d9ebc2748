// Package sni reads which name a TLS client asks for, without answering it, and
// finds whom that name belongs to: many services share a port by it, and the
// handshake itself stays between the client and its backend.
//
//	var p sni.Parser
//	for have := 0; ; {
//		n, err := conn.Read(buf[have:sni.MaxHello])
//		have += n
//		hello, need, perr := p.Parse(buf[:have], scratch)
//		if perr == nil && need == 0 {
//			service, ok := names.Lookup(hello.Name) // then relay buf[:have], and what follows
//		}
//		…
//	}
//
// A Parser takes the stream as it arrives, cut anywhere, and the ClientHello
// in records of any size. What it has seen it does not look at again, and all of
// it is bounded by MaxHello. It checks what routing by name depends on, no
// more: the rest is for the backend to judge. Nothing here is decrypted: of a
// client that encrypts its ClientHello (ECH), the outer name counts, which is
// the one that the public sees.
package sni

import (
	"errors"
	"fmt"
)

// MaxHello is how many bytes of a stream a ClientHello may take, with the
// headers of its records. Browsers send up to 2 KiB, of which post-quantum keys
// are the most; session tickets may add a few more.
const MaxHello = 16 << 10

// What is wrong with a stream; Parse's errors wrap one of them.
var (
	ErrNotTLS    = errors.New("not TLS")
	ErrMalformed = errors.New("malformed ClientHello")
	ErrTooLong   = fmt.Errorf("ClientHello longer than %d bytes", MaxHello)
	ErrName      = errors.New("server name refused")
)

// Alerts that end a handshake (RFC 8446, 6): whole records, to be sent as they are.
const (
	AlertDecodeError      = "\x15\x03\x03\x00\x02\x02\x32" // what was sent makes no sense
	AlertUnrecognizedName = "\x15\x03\x03\x00\x02\x02\x70" // nobody here has that name
)

// The errors are made once: who sends garbage costs no memory.
var (
	errPlain       = fmt.Errorf("%w: the stream does not begin with a handshake record", ErrNotTLS)
	errSSL2        = fmt.Errorf("%w: a hello of SSL 2, which is not supported", ErrNotTLS)
	errVersion     = fmt.Errorf("%w: the version of a record is not 3.x", ErrNotTLS)
	errNotHello    = fmt.Errorf("%w: the handshake does not begin with a ClientHello", ErrNotTLS)
	errInterleaved = fmt.Errorf("%w: it is cut by a record that belongs to no handshake", ErrMalformed)
	errRecordSize  = fmt.Errorf("%w: a record is empty or longer than 16384 bytes", ErrMalformed)
	errLengths     = fmt.Errorf("%w: its lengths contradict each other", ErrMalformed)
	errTwice       = fmt.Errorf("%w: an extension stands in it twice", ErrMalformed)
	errServerNames = fmt.Errorf("%w: the list of server names is empty or has two host names", ErrMalformed)
	errProtocols   = fmt.Errorf("%w: the list of protocols is empty or has an empty one", ErrMalformed)
)

const (
	recordHeader    = 5
	handshakeHeader = 4
	maxRecord       = 1 << 14 // RFC 8446, 5.1

	typeHandshake   = 22
	typeClientHello = 1
)

// Hello is what a ClientHello says that routing needs.
type Hello struct {
	Name string // lower case, without a dot at its end; "" where the client names none, or an IP address
	ALPN []byte // the protocols as they were sent, each behind a byte of length; valid as long as the buffers
}

// Parser reads one stream's ClientHello. The zero value is at its beginning.
type Parser struct {
	next int // where the record begins that was not complete yet
	got  int // bytes of the handshake in the records before
	head [handshakeHeader]byte
}

// Parse is given what has come of the stream: b begins with what the last
// call was given. With need above 0 the ClientHello is not complete: at least
// that many bytes are missing. Asking earlier costs little and finds out
// earlier what is no TLS. b[:len(b)+need] is never longer than MaxHello.
//
// A ClientHello in several records is put together in scratch; where its
// capacity does not do, that allocates.
func (p *Parser) Parse(b, scratch []byte) (hello Hello, need int, err error) {
	b = b[:min(len(b), MaxHello)]
	for {
		rest := b[p.next:]
		size, err := recordSize(rest, p.next == 0)
		if err != nil {
			return hello, 0, err
		}
		if len(rest) < recordHeader {
			return p.wait(len(b), p.next+recordHeader+max(1, p.missing()))
		}
		body := rest[recordHeader:min(len(rest), recordHeader+size)]
		if p.got < handshakeHeader {
			copy(p.head[p.got:], body)
		}
		seen := p.got + len(body)
		if seen > 0 && p.head[0] != typeClientHello {
			return hello, 0, errNotHello
		}
		total := handshakeHeader // at least
		if seen >= handshakeHeader {
			total += p.length()
		}
		switch {
		case seen >= handshakeHeader && seen >= total:
			hello, err = parseMessage(p.message(b, body, scratch)[handshakeHeader:total])
			return hello, 0, err
		case len(body) < size:
			end := p.next + recordHeader + min(size, total-p.got)
			if over := total - p.got - size; over > 0 {
				end += recordHeader + over // in one more record, if not more
			}
			return p.wait(len(b), end)
		}
		p.got, p.next = seen, p.next+recordHeader+size
	}
}

// length is the one that the handshake's header gives, once it is complete.
func (p *Parser) length() int { return int(p.head[1])<<16 | int(p.head[2])<<8 | int(p.head[3]) }

// missing is how many bytes of the handshake are to come in further records, at least.
func (p *Parser) missing() int {
	if p.got < handshakeHeader {
		return handshakeHeader - p.got
	}
	return handshakeHeader + p.length() - p.got
}

// wait says how much is missing to end, of which have has come.
func (p *Parser) wait(have, end int) (Hello, int, error) {
	if end > MaxHello {
		return Hello{}, 0, ErrTooLong
	}
	return Hello{}, end - have, nil
}

// message returns the handshake: the only record's body, or what stands in all of them.
func (p *Parser) message(b, body, scratch []byte) []byte {
	if p.next == 0 {
		return body
	}
	m := scratch[:0]
	for at := 0; at < p.next; {
		end := at + recordHeader + int(b[at+3])<<8 + int(b[at+4])
		m = append(m, b[at+recordHeader:end]...)
		at = end
	}
	return append(m, body...)
}

// recordSize checks the header of a record as far as it has come, and returns
// the size of what follows it.
func recordSize(b []byte, first bool) (int, error) {
	if len(b) > 0 && b[0] != typeHandshake {
		switch {
		case !first:
			return 0, errInterleaved
		case len(b) > 2 && b[0]&0x80 != 0 && b[2] == typeClientHello: // length, then the type
			return 0, errSSL2
		}
		return 0, errPlain
	}
	if len(b) > 1 && b[1] != 3 {
		return 0, errVersion
	}
	if len(b) < recordHeader {
		return 0, nil
	}
	size := int(b[3])<<8 | int(b[4])
	if size == 0 || size > maxRecord {
		return 0, errRecordSize
	}
	return size, nil
}
