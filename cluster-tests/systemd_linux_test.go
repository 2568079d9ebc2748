package clustertests

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSystemd: a service of Type=notify, with WatchdogSec, hears that the POP
// serves, that its loops get on, and that it ends; each as sd_notify(3) has it.
func TestSystemd(t *testing.T) {
	t.Parallel()
	path, hears := notifySocket(t)
	p := startPOP(t, nil, "NOTIFY_SOCKET="+path)
	hears("READY=1")
	hears("WATCHDOG=1")
	hears("WATCHDOG=1")
	p.stop(t)
	hears("STOPPING=1")
}

// TestSystemdUpgrade: it hears which process is the main one after an upgrade,
// and from that one then; that the old one ends is no end of the service.
func TestSystemdUpgrade(t *testing.T) {
	t.Parallel()
	path, hears := notifySocket(t)
	p := startPOP(t, nil, "NOTIFY_SOCKET="+path)
	hears("READY=1")
	p.upgrade(t)
	hears(fmt.Sprintf("MAINPID=%d", p.PID), "STOPPING=1")
	hears("WATCHDOG=1", "STOPPING=1")
	if err := syscall.Kill(p.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hears("STOPPING=1")
}

// notifySocket is what systemd listens on; hears waits for a message, and fails
// where another one comes before that must not.
func notifySocket(t *testing.T) (path string, hears func(want string, never ...string)) {
	path = filepath.Join(t.TempDir(), "notify")
	ln, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return path, func(want string, never ...string) {
		t.Helper()
		_ = ln.SetReadDeadline(time.Now().Add(soon))
		buf := make([]byte, 4096)
		for got := ""; ; {
			n, err := ln.Read(buf)
			if err != nil {
				t.Fatalf("%q, and then %v; want %s", got, err, want)
			}
			if got = string(buf[:n]); strings.TrimSpace(got) == want {
				return
			}
			if slices.Contains(never, strings.TrimSpace(got)) {
				t.Fatalf("%q before %s", got, want)
			}
		}
	}
}
