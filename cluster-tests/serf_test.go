package clustertests

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"testing"
	"time"
)

// TestSerfAgent: an agent of Debian's package serf with the same key joins the
// ring and sees our members and tags; to us it is a member that is no POP.
func TestSerfAgent(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("serf")
	if err != nil {
		if wanted("long") {
			t.Fatal("serf is not installed: apt-get install serf")
		}
		t.Skip("serf is not installed; EDGEPROXY_TEST=long insists on it")
	}
	m := newMesh(t, 2)
	m.pops[0].sql(t, insert(at("ours", "sa", refusing(t))))
	bind, rpc := ownAddrs(t)
	agent, log := exec.Command(path, "agent", "-node=debian", "-bind="+bind, "-rpc-addr="+rpc, "-encrypt="+m.key, "-join="+m.seed(), "-tag=role=web"), &logBuffer{}
	agent.Stdout, agent.Stderr = log, log
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = agent.Wait()
	}()
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		<-done
		if t.Failed() {
			t.Logf("serf agent:\n%s", log)
		}
	})

	seen := func() error {
		out, err := exec.Command(path, "members", "-rpc-addr="+rpc).CombinedOutput()
		if err != nil {
			return fmt.Errorf("serf members: %w: %s", err, out)
		}
		for _, p := range m.pops {
			_, port, _ := net.SplitHostPort(p.Sync)
			words := []string{p.Node + " ", p.Gossip + " ", "alive", "role=edgeproxy", "region=" + p.setting("EDGEPROXY_REGION"), "sync=" + port}
			if len(linesWith(string(out), words...)) != 1 {
				return fmt.Errorf("serf members has no line with %q:\n%s", words, out)
			}
		}
		if lines := linesWith(string(out), "alive"); len(lines) != 3 {
			return fmt.Errorf("serf members lists %q", lines)
		}
		return nil
	}
	began := time.Now()
	eventually(t, soon, seen)
	eventually(t, soon, func() error { return errors.Join(m.pops[0].sees("debian", "alive"), m.pops[1].sees("debian", "alive")) })
	t.Logf("serf agent and POPs know each other after %s", time.Since(began))
	for _, p := range m.pops {
		for _, peer := range p.status(t).Peers {
			if peer.Node == "debian" {
				t.Errorf("%s wants records of it: %+v", p.Node, peer)
			}
		}
	}
	settle(t, converged, m.pops...)
	goesOn(t, "beside", m.pops...)
	// Who is no POP has no say about keys.
	next := newKey()
	if err := m.pops[0].do("keys", "add", next); err != nil {
		t.Error(err)
	}
	eventually(t, soon, func() error {
		for _, p := range m.pops {
			if keys, err := p.keys(); err != nil || len(keys) != 2 {
				return fmt.Errorf("%s has keys %+v, %v", p.Node, keys, err)
			}
		}
		return nil
	})

	if out, err := exec.Command(path, "leave", "-rpc-addr="+rpc).CombinedOutput(); err != nil {
		t.Errorf("serf leave: %v: %s", err, out)
	}
	eventually(t, soon, func() error { return m.pops[0].sees("debian", "left") })
	for _, p := range m.pops {
		if lines := regexp.MustCompile(`(?m)^.*(panic|"level":"error").*$`).FindAllString(p.log.String(), 3); lines != nil {
			t.Errorf("%s complains: %q", p.Node, lines)
		}
	}
}
