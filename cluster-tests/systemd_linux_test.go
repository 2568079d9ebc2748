package clustertests

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSystemd: a service of Type=notify, with WatchdogSec, hears that the POP
// serves, that its loops get on, and that it ends; each as sd_notify(3) has it.
func TestSystemd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify")
	ln, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	hears := func(want string) {
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
		}
	}
	p := startPOP(t, nil, "NOTIFY_SOCKET="+path)
	hears("READY=1")
	hears("WATCHDOG=1")
	hears("WATCHDOG=1")
	p.stop(t)
	hears("STOPPING=1")
}
