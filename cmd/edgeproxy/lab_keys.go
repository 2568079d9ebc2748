package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/edgeproxy/edgeproxy/node/lab"
	"golang.org/x/sys/unix"
)

const keyHelp = "keys: k backend dies / comes back   p POP is cut off / put back   w weight   d drain / end it   j POP joins   q quit"

// verbs of the keys; the lab takes the counterpart of what is there already.
var keys = map[byte]string{'k': "kill", 'p': "cut", 'w': "weight", 'd': "drain", 'j': "join"}

// readKeys has the terminal give each key as it is pressed, until q or the end
// of ctx; end then puts it back as it was.
func (l *labRun) readKeys(ctx context.Context, tty *os.File) (end func(), err error) {
	fd := int(tty.Fd())
	old, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return nil, fmt.Errorf("read keys from the terminal: %w", err)
	}
	raw := *old
	raw.Lflag &^= unix.ICANON | unix.ECHO // Ctrl-C stays a signal
	// A read returns after 100 ms without a key: so its goroutine sees the end.
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 0, 1
	if err := unix.IoctlSetTermios(fd, setTermios, &raw); err != nil {
		return nil, fmt.Errorf("read keys from the terminal: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	steps := make(chan lab.Step, 4) // keys that are pressed while a step is played; more are dropped
	l.cfg.Keys = steps
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(steps)
		pressed(ctx, tty, steps)
	}()
	return func() {
		stop()
		<-done
		_ = unix.IoctlSetTermios(fd, setTermios, old)
	}, nil
}

// pressed turns keys into steps.
func pressed(ctx context.Context, tty io.Reader, steps chan<- lab.Step) {
	var key [1]byte
	for ctx.Err() == nil {
		n, err := tty.Read(key[:])
		switch {
		case n == 0 && err != nil && err != io.EOF: // EOF: no key yet
			return
		case n == 0:
			continue
		case key[0] == 'q':
			return
		}
		if verb, ok := keys[key[0]]; ok {
			select {
			case steps <- lab.Step{Verb: verb}:
			default:
			}
		}
	}
}

// rows is the height of a terminal; 0: not known.
func rows(tty *os.File) int {
	size, err := unix.IoctlGetWinsize(int(tty.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Row)
}
