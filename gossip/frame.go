package gossip

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// frameError is what a peer must not have sent. The stream ends with it.
type frameError struct {
	oversized, truncated bool // else it made no sense
	err                  error
}

func (e *frameError) Error() string { return "bad frame: " + e.err.Error() }
func (e *frameError) Unwrap() error { return e.err }

func garbage(err error) error { return &frameError{err: err} }

// frameReader cuts a stream into frames. Its memory is one frame's, and grows
// only with what arrives: a length alone takes none.
type frameReader struct {
	r    *bufio.Reader
	max  int
	body []byte
}

func newFrameReader(r io.Reader, limit int) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, 16<<10), max: limit}
}

const bodyStep = 64 << 10

// next is a frame whose body is valid until the next call. io.EOF: the stream
// ended between two frames.
func (f *frameReader) next() (kind, []byte, error) {
	var head [frameHeader]byte
	if n, err := io.ReadFull(f.r, head[:]); err != nil {
		if n > 0 && errors.Is(err, io.ErrUnexpectedEOF) {
			err = &frameError{truncated: true, err: err}
		}
		return 0, nil, err
	}
	size := int64(binary.BigEndian.Uint32(head[:4])) - 1
	if size < 0 {
		return 0, nil, garbage(errors.New("no kind"))
	}
	if size > int64(f.max) {
		return 0, nil, &frameError{oversized: true, err: fmt.Errorf("%d bytes, at most %d are taken", size, f.max)}
	}
	f.body = f.body[:0]
	for len(f.body) < int(size) {
		start := len(f.body)
		f.body = append(f.body, make([]byte, min(int(size)-start, bodyStep))...)
		if _, err := io.ReadFull(f.r, f.body[start:]); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF {
				err = &frameError{truncated: true, err: io.ErrUnexpectedEOF}
			}
			return 0, nil, err
		}
	}
	return kind(head[4]), f.body, nil
}

// patient reads from a connection that must not be silent for longer than
// limit, and tells what it hears.
type patient struct {
	conn  net.Conn
	limit time.Duration
	until time.Time // if set, the end of all patience
	heard func(n int)
}

func (p *patient) Read(b []byte) (int, error) {
	deadline := p.until
	if deadline.IsZero() {
		deadline = time.Now().Add(p.limit)
	}
	if err := p.conn.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	n, err := p.conn.Read(b)
	if n > 0 {
		p.heard(n)
	}
	return n, err
}
