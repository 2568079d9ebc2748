package clustertests

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// pop is one edgeproxy: its place on disk, its settings and, while it runs,
// its process. It can be started again after it has ended.
type pop struct {
	mu          sync.Mutex // while PopFile is written
	api.PopFile            // addresses, name and process id, valid while it runs

	dir, db   string
	env       []string // of several entries for one variable the last one counts
	args      []string
	wrap      func(*exec.Cmd)     // what serve runs under; nil: nothing
	program   string              // an edgeproxy that is not the one under test; empty: that one
	user      *syscall.Credential // nil: ours
	netns     string              // network namespace; empty: ours
	container string              // that it runs in; empty: a process of ours
	token     string              // of its API
	log       *logBuffer          // of all its runs

	cmd   *exec.Cmd
	pid   atomic.Int64  // of the process last launched
	ended chan struct{} // closed when the process has ended
}

// What whole runs of these tests may set: for the mesh of many with tests of
// a few POPs, and for either relay.
const (
	fanoutLimit = "EDGEPROXY_FANOUT_LIMIT"
	relayPath   = "EDGEPROXY_RELAY"
)

// newPOP makes a POP on free ports with a directory of its own. It starts nothing.
func newPOP(t testing.TB, env ...string) *pop {
	t.Helper()
	if err := noteSources(); err != nil {
		t.Fatal(err)
	}
	p := &pop{dir: t.TempDir(), log: &logBuffer{}}
	p.db = filepath.Join(p.dir, "routing.db")
	gossip, sync := ownAddrs(t) // an upgrade lets go of them for a moment
	p.env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "GOCOVERDIR=" + os.Getenv("GOCOVERDIR"),
		"GORACE=halt_on_error=1 atexit_sleep_ms=0",
		"EDGEPROXY_LISTEN_ADDR=127.0.0.1:0", "EDGEPROXY_API_ADDR=127.0.0.1:0",
		"EDGEPROXY_GOSSIP_ADDR=" + gossip, "EDGEPROXY_SYNC_ADDR=" + sync,
		"EDGEPROXY_DB_PATH=" + p.db, "EDGEPROXY_LOG_LEVEL=debug",
	}, env...)
	for _, name := range []string{fanoutLimit, relayPath} {
		if value := os.Getenv(name); value != "" && p.setting(name) == "" {
			p.env = append(p.env, name+"="+value)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s\n%s", p.state(), p.log.digest())
		}
	})
	return p
}

// startPOP makes and starts one whose database has these backends.
func startPOP(t testing.TB, rows []row, env ...string) *pop {
	t.Helper()
	p := newPOP(t, env...)
	p.seed(t, rows...)
	p.start(t)
	return p
}

// state is a POP in one line.
func (p *pop) state() string {
	s := fmt.Sprintf("POP in %s: node %s, pid %d, listen %s, api %s", p.dir, p.Node, p.PID, p.Listen, p.API)
	if p.cmd == nil && p.container == "" {
		return s + ", never started"
	}
	select {
	case <-p.ended: // of a container: never
		return s + ", ended with " + p.cmd.ProcessState.String()
	default:
	}
	ready, reasons, err := p.ready()
	return s + fmt.Sprintf(", runs, ready %v %q %v", ready, reasons, err) + p.meshState()
}

// command is edgeproxy with the POP's environment, for other commands than serve too.
func (p *pop) command(args ...string) *exec.Cmd {
	program := binary
	if p.program != "" {
		program = p.program
	}
	all := append([]string{program}, args...)
	if p.netns != "" {
		all = append([]string{"ip", "netns", "exec", p.netns}, all...) // becomes edgeproxy, with its process id
	}
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Dir, cmd.Env = p.dir, p.env
	return cmd
}

// launch starts the process and waits for nothing. Its end is the test's.
func (p *pop) launch(t testing.TB) {
	t.Helper()
	p.cmd = p.command(p.args...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if p.wrap != nil {
		p.wrap(p.cmd)
	}
	if p.user != nil {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.user}
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.pid.Store(int64(p.cmd.Process.Pid))
	cmd, ended := p.cmd, make(chan struct{})
	p.ended = ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // how it ended stands in ProcessState
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.state()) // while there is still something to be seen
		}
		endProcess(t, cmd, ended)
	})
}

// apart is more than the time within which two signals to end are taken for one.
const apart = 300 * time.Millisecond

// endProcess ends what still runs when a test is over: politely, at once.
func endProcess(t testing.TB, cmd *exec.Cmd, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	default:
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(apart):
		_ = cmd.Process.Signal(syscall.SIGTERM) // the second one ends a drain
	}
	select {
	case <-ended:
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("edgeproxy ended with %s, want 0", cmd.ProcessState)
		}
	case <-time.After(soon):
		t.Errorf("edgeproxy (pid %d) does not end; killed", cmd.Process.Pid)
		_ = cmd.Process.Kill()
		<-ended
	}
}

// start runs the POP and waits until it takes traffic.
func (p *pop) start(t testing.TB) {
	t.Helper()
	p.launch(t)
	p.reaches(t, p.isReady)
}

// reaches waits until the process that was launched is where check wants it.
func (p *pop) reaches(t testing.TB, check func() error) {
	t.Helper()
	eventually(t, soon, func() error {
		select {
		case <-p.ended:
			t.Fatalf("edgeproxy ended with %s", p.cmd.ProcessState)
		default:
		}
		if err := p.findAddresses(); err != nil {
			return err
		}
		return check()
	})
}

// findAddresses reads the file that the process left which was launched.
func (p *pop) findAddresses() error { return p.findAddressesOf(p.cmd.Process.Pid) }

// findAddressesOf reads the file that a running process left beside the database.
func (p *pop) findAddressesOf(pid int) error {
	body, err := os.ReadFile(p.db + ".pop")
	if err != nil {
		return err
	}
	var file api.PopFile
	if err := json.Unmarshal(body, &file); err != nil {
		return err
	}
	if file.PID != pid {
		return fmt.Errorf("%s.pop is of process %d", p.db, file.PID)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.PopFile = file
	return nil
}

// signal sends one to the process.
func (p *pop) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("%s: %v", sig, err)
	}
}

// wait waits for the end of the process and returns its exit code, -1 where a signal ended it.
func (p *pop) wait(t testing.TB, within time.Duration) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(within):
		t.Fatalf("edgeproxy still runs after %s", within)
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop drains the POP and waits for its end.
func (p *pop) stop(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	if code := p.wait(t, soon); code != 0 {
		t.Fatalf("exit code %d after SIGTERM, want 0", code)
	}
}

// kill ends the process as a power cut would.
func (p *pop) kill(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	p.wait(t, soon)
}

// run runs another command to its end.
func (p *pop) run(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := p.command(args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	timer := time.AfterFunc(soon, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// refuses expects that the POP does not start, with the exit code and a
// message that holds all the words.
func (p *pop) refuses(t testing.TB, code int, words ...string) {
	t.Helper()
	p.launch(t)
	if got := p.wait(t, soon); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	p.expectLog(t, append([]string{"edgeproxy: "}, words...)...)
	for _, trace := range []string{"panic:", "goroutine "} {
		if p.log.says(trace) == nil {
			t.Errorf("it fell over instead of saying what is wrong")
		}
	}
}
