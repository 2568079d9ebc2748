package clustertests

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// refusesConnects is nil once new connections are refused.
func (p *pop) refusesConnects() error {
	c, err := p.dial(nil)
	if err == nil {
		reset(c)
		return errors.New("still accepts")
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return err
}

// TestDrain: after SIGTERM open connections go on, new ones are refused,
// /ready says so, and the process ends well when the last one has ended, long
// before the deadline.
func TestDrain(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"), noAffinity, "EDGEPROXY_DRAIN_SECS=600")
	open := []*visit{p.visit(t, ""), p.visit(t, ""), p.visit(t, "")}
	p.signal(t, syscall.SIGTERM)
	eventually(t, soon, func() error { return p.notReady("draining") })
	eventually(t, soon, p.refusesConnects)
	if a := p.ask(t, "GET", "/health", ""); a.code != 200 {
		t.Errorf("/health while draining: %+v", a)
	}
	eventually(t, soon, func() error { // those that were refused are no connections, a moment later
		if st := p.status(t); st.Ready || st.Connections != 3 {
			return fmt.Errorf("status while draining: %+v", st)
		}
		return nil
	})
	p.sql(t, "UPDATE backends SET healthy=0") // the open ones do not care
	for _, v := range open {
		v.alive(t)
	}
	for i, v := range open {
		select {
		case <-p.ended:
			t.Fatalf("ended with %d connections open", len(open)-i)
		default:
		}
		v.alive(t)
		v.Close()
	}
	if code := p.wait(t, soon); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if _, err := os.Stat(p.db + ".pop"); !os.IsNotExist(err) {
		t.Errorf("the address file is still there: %v", err)
	}
}

// TestDrainWithoutConnections ends at once, whatever the deadline.
func TestDrainWithoutConnections(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p := startPOP(t, nil, "EDGEPROXY_DRAIN_SECS=600")
		p.signal(t, sig)
		if code := p.wait(t, soon); code != 0 {
			t.Errorf("%s: exit code %d, want 0", sig, code)
		}
	}
}

// TestDrainDeadline: what is still open then is closed, not reset, and the exit is orderly.
func TestDrainDeadline(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"), "EDGEPROXY_DRAIN_SECS=0.5")
	open := p.visit(t, "")
	began := time.Now()
	p.signal(t, syscall.SIGTERM)
	if text, err := readAll(open.r); err != nil || text != "" {
		t.Errorf("the client read %q, %v, want the end", text, err)
	}
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("cut after %s, want no earlier than 500 ms", took)
	}
	if code := p.wait(t, soon); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	p.expectLog(t, `"end":"drained"`)
}

// TestSecondSignalEndsTheDrain at once, but for one that comes with the first:
// timeout(1) sends two.
func TestSecondSignalEndsTheDrain(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"), "EDGEPROXY_DRAIN_SECS=600")
	open := p.visit(t, "")
	p.signal(t, syscall.SIGTERM)
	p.signal(t, syscall.SIGTERM)
	eventually(t, soon, func() error { return p.notReady("draining") })
	<-time.After(2 * apart)
	open.alive(t)
	p.signal(t, syscall.SIGTERM)
	if code := p.wait(t, soon); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestNobodyIsResetByADrain: clients that keep coming while a POP stops
// accepting are served or refused. A reset or a close without a word would be
// a connection that was taken and then thrown away.
func TestNobodyIsResetByADrain(t *testing.T) {
	t.Parallel()
	for round := range 4 {
		// A SYN that comes as the port closes is sent again a second later: nobody else may have the port by then.
		p := startPOP(t, startBackends(t, "sa"), noAffinity, "EDGEPROXY_DRAIN_SECS=60", "EDGEPROXY_LOG_LEVEL=info", "EDGEPROXY_LISTEN_ADDR="+ownHost()+":0")
		var all sync.WaitGroup
		var mu sync.Mutex
		served, lost := 0, []string{}
		for range 4 {
			all.Go(func() {
				for {
					v, err := p.call("")
					if errors.Is(err, syscall.ECONNREFUSED) {
						return
					}
					mu.Lock()
					if served++; err != nil {
						lost = append(lost, err.Error())
					} else {
						v.Close()
					}
					mu.Unlock()
				}
			})
		}
		eventually(t, soon, func() error {
			mu.Lock()
			defer mu.Unlock()
			if served < 50 {
				return fmt.Errorf("%d clients served", served)
			}
			return nil
		})
		p.signal(t, syscall.SIGTERM)
		all.Wait()
		if len(lost) > 0 {
			t.Errorf("round %d: %d of %d clients were lost: %q", round, len(lost), served, lost)
		}
		if code := p.wait(t, soon); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	}
}

// TestSignalDuringTheStart: a POP that has only just begun can be told to end,
// or to read its settings again, as any other; the signal does not kill it.
func TestSignalDuringTheStart(t *testing.T) {
	t.Parallel()
	launched := func(t *testing.T) *pop {
		p := newPOP(t)
		p.launch(t)
		eventually(t, soon, func() error {
			_, err := os.Stat(p.db + ".lock")
			return err
		})
		return p
	}
	t.Run("SIGTERM", func(t *testing.T) {
		t.Parallel()
		for range 10 {
			launched(t).stop(t)
		}
	})
	t.Run("SIGHUP", func(t *testing.T) {
		t.Parallel()
		for range 10 {
			p := launched(t)
			p.signal(t, syscall.SIGHUP)
			eventually(t, soon, func() error {
				select {
				case <-p.ended:
					t.Fatalf("edgeproxy ended with %s", p.cmd.ProcessState)
				default:
				}
				return p.findAddresses()
			})
			p.stop(t)
		}
	})
}
