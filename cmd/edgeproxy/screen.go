package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// screen is a terminal that shows one picture after another, and afterwards
// what it showed before.
type screen struct {
	out   *os.File
	keys  *os.File    // nil: nobody types
	state *term.State // of keys, as it was
	last  [2]int      // size at the last draw
}

// Escape sequences: xterm's alternate screen, DEC's cursor, ECMA-48.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	cursorHome  = "\x1b[H"
	eraseLine   = "\x1b[K"
	eraseBelow  = "\x1b[J"
)

// openScreen takes the terminal over. Keys are read from in where that is a
// terminal too.
func openScreen(in any, out *os.File) (*screen, error) {
	s := &screen{out: out}
	if keys, is := in.(*os.File); is && term.IsTerminal(int(keys.Fd())) {
		var err error
		if s.state, err = term.MakeRaw(int(keys.Fd())); err != nil {
			return nil, fmt.Errorf("read single keys: %w", err)
		}
		s.keys = keys
	}
	if _, err := io.WriteString(out, enterScreen); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// close gives the terminal back as it was.
func (s *screen) close() error {
	_, err := io.WriteString(s.out, leaveScreen)
	if s.state != nil {
		err = errors.Join(err, term.Restore(int(s.keys.Fd()), s.state))
	}
	return err
}

// size is that of the terminal, or the usual one where it does not tell.
func (s *screen) size() (width, height int) {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		return 80, 24
	}
	return width, height
}

// draw shows lines in place of what is there, without flicker.
func (s *screen) draw(lines []string) error {
	width, height := s.size()
	s.last = [2]int{width, height}
	var b strings.Builder
	b.WriteString(cursorHome)
	for i, line := range lines[:min(len(lines), height)] {
		if i > 0 {
			b.WriteString("\r\n") // raw: a line feed alone only goes down
		}
		b.WriteString(strings.TrimSuffix(line, "\n") + eraseLine)
	}
	b.WriteString(eraseBelow)
	_, err := io.WriteString(s.out, b.String())
	return err
}

// wait lets time pass, less of it where the terminal changes its size, and
// says whether it is time to end: by ctx, q or Ctrl-C.
func (s *screen) wait(ctx context.Context, d time.Duration) (quit bool) {
	const between = 50 * time.Millisecond
	for end := time.Now().Add(d); ; {
		left := time.Until(end)
		if width, height := s.size(); left <= 0 || s.last != [2]int{width, height} {
			return ctx.Err() != nil
		}
		if s.typed(min(left, between)) || ctx.Err() != nil {
			return true
		}
	}
}

// ctrlC is a key like others while the terminal is raw.
const ctrlC = "\x03"

// typed waits so long for a key that ends the program.
func (s *screen) typed(d time.Duration) bool {
	keys, gone := s.pressed(d)
	return gone || strings.ContainsAny(keys, "qQ"+ctrlC)
}

// pressed waits so long for keys, and says which, or that the terminal is gone.
func (s *screen) pressed(d time.Duration) (keys string, gone bool) {
	if s.keys == nil {
		time.Sleep(d)
		return "", false
	}
	fds := []unix.PollFd{{Fd: int32(s.keys.Fd()), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, int(max(d.Milliseconds(), 1))); n == 0 || err != nil {
		return "", false // also where a signal came, for ctx
	}
	b := make([]byte, 64)
	n, err := s.keys.Read(b)
	return string(b[:n]), err != nil
}
