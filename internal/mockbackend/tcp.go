package mockbackend

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	maxLine     = 1 << 20 // bytes; a longer line ends the connection
	acceptPause = 50 * time.Millisecond
)

// TCP greets each connection with one line and answers every line that it reads:
//
//	Backend: <id> | Region: <region> | Your IP: <ip:port>
//	[<id>] Echo: <line>
//
// A client that closes its sending half still gets every answer, then the end of the stream. A last line without a line
// break counts as one.
type TCP struct{ identity }

// NewTCP returns a backend of lines of text. It starts nothing.
func NewTCP(cfg Config) (*TCP, error) {
	b := new(TCP)
	if err := b.fill(cfg); err != nil {
		return nil, err
	}
	return b, nil
}

// Serve answers connections on ln until ctx ends, then closes ln and every connection and returns nil. Any other end of
// the listener is an error; running out of descriptors is not one, Serve waits and goes on.
func (b *TCP) Serve(ctx context.Context, ln net.Listener) error {
	// An own context, so that a listener that fails takes its connections along.
	ctx, cancel := context.WithCancel(ctx)
	release := closeAtEnd(ctx, ln)
	var conns sync.WaitGroup
	err := b.accept(ctx, ln, &conns)
	ended := ctx.Err() != nil
	cancel()
	conns.Wait()
	release()
	if ended {
		return nil
	}
	return fmt.Errorf("serve mock backend %s on %s: %w", b.cfg.ID, ln.Addr(), err)
}

func (b *TCP) accept(ctx context.Context, ln net.Listener, conns *sync.WaitGroup) error {
	for {
		c, err := ln.Accept()
		if passing(err) {
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		if err != nil {
			return err
		}
		b.accepted.Add(1)
		b.open.Add(1)
		conns.Go(func() {
			defer b.open.Add(-1)
			release := closeAtEnd(ctx, c)
			b.talk(c)
			release()
			_ = c.Close()
		})
	}
}

// passing tells whether an accept error heals by itself.
func passing(err error) bool {
	for _, e := range []error{syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// talk returns when the client has sent its last line or one side is gone. What was written before c is closed still
// arrives: nothing unread is left behind that would turn the close into a reset.
func (b *TCP) talk(c net.Conn) {
	if _, err := fmt.Fprintf(c, "Backend: %s | Region: %s | Your IP: %s\n", b.cfg.ID, b.cfg.Region, c.RemoteAddr()); err != nil {
		return
	}
	lines := bufio.NewScanner(c)
	lines.Buffer(make([]byte, 0, 512), maxLine)
	for lines.Scan() {
		b.requests.Add(1)
		if _, err := fmt.Fprintf(c, "[%s] Echo: %s\n", b.cfg.ID, lines.Bytes()); err != nil {
			return
		}
	}
}
