package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal with a program on it.
type terminal struct {
	t      *testing.T
	master *os.File
	slave  *os.File
	cmd    *exec.Cmd
	before unix.Termios

	mu    sync.Mutex
	shown bytes.Buffer
}

// onTerminal runs edgeproxy on a terminal of this size.
func onTerminal(t *testing.T, width, height uint16, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	term := &terminal{t: t, master: master, slave: slave, cmd: exec.Command(os.Args[0], args...)}
	term.resize(width, height)
	term.before = term.mode()
	// testscript.Main gives the command to whoever has the program's name.
	term.cmd.Path, term.cmd.Args[0] = os.Args[0], "edgeproxy"
	term.cmd.Env = []string{"HOME=" + t.TempDir(), "TERM=xterm"}
	term.cmd.Stdin, term.cmd.Stdout, term.cmd.Stderr = slave, slave, slave
	term.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := term.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			term.mu.Lock()
			term.shown.Write(b[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = term.cmd.Process.Kill() // has ended, unless the test failed
		_ = term.cmd.Wait()
		slave.Close() // ends what is read from the master
		<-read
		master.Close()
	})
	return term
}

func (term *terminal) mode() unix.Termios {
	term.t.Helper()
	mode, err := unix.IoctlGetTermios(int(term.slave.Fd()), unix.TCGETS)
	if err != nil {
		term.t.Fatal(err)
	}
	return *mode
}

func (term *terminal) resize(width, height uint16) {
	term.t.Helper()
	if err := unix.IoctlSetWinsize(int(term.slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}); err != nil {
		term.t.Fatal(err)
	}
}

// text is all that has been written to the terminal.
func (term *terminal) text() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.shown.String()
}

// shows waits until the text has been written to the terminal.
func (term *terminal) shows(text string) {
	term.t.Helper()
	for deadline := time.After(time.Minute); ; {
		got := term.text()
		if strings.Contains(got, text) {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			term.t.Fatalf("the terminal does not show %q but at last %q", text, got[max(0, len(got)-2000):])
		}
	}
}

// ended waits for the program's end, and wants the terminal as it was.
func (term *terminal) ended() {
	term.t.Helper()
	if err := term.cmd.Wait(); err != nil {
		term.t.Errorf("edgeproxy: %v", err)
	}
	term.shows(leaveScreen)
	if term.mode() != term.before {
		term.t.Error("the terminal is not in the mode that it had")
	}
}

// loadServer answers as a POP would, and fails when it is told to.
func loadServer(t *testing.T) (addr string, fail func()) {
	t.Helper()
	var mu sync.Mutex
	failing := false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if failing {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		_ = (&cli{stdout: w}).jsonLine(busy(2, 30))
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://"), func() { mu.Lock(); failing = true; mu.Unlock() }
}

// TestTopOnATerminal: it fits, follows the terminal's size and the POP, and
// leaves the terminal as it was.
func TestTopOnATerminal(t *testing.T) {
	for name, end := range map[string]func(*terminal){
		"q":      func(term *terminal) { fmt.Fprint(term.master, "q") },
		"ctrl-c": func(term *terminal) { fmt.Fprint(term.master, "\x03") },
		"TERM":   func(term *terminal) { _ = term.cmd.Process.Signal(syscall.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			addr, fail := loadServer(t)
			term := onTerminal(t, 60, 20, "top", "--api", addr, "--interval", "100ms")
			term.shows(enterScreen + cursorHome + "sa-1  2026-01-02T03:04:05Z")
			term.shows("\x1b[32malive\x1b[0m")
			term.shows("… 18 more backends" + eraseLine + eraseBelow)
			if term.mode() == term.before {
				t.Error("keys are not read one by one")
			}
			term.resize(100, 12)
			term.shows("sa-1=29")
			fmt.Fprint(term.master, "x") // means nothing
			fail()
			term.shows("no answer: ")
			end(term)
			term.ended()
		})
	}
}

// TestTopWithoutAPOP leaves the terminal alone.
func TestTopWithoutAPOP(t *testing.T) {
	term := onTerminal(t, 80, 24, "top", "--api", "127.0.0.1:1")
	term.shows("edgeproxy: nothing listens on 127.0.0.1:1")
	if err := term.cmd.Wait(); err == nil {
		t.Error("exit code 0")
	}
	if strings.Contains(term.text(), enterScreen) || term.mode() != term.before {
		t.Error("the terminal was taken over")
	}
}
