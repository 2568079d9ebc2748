package membership_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net"
	"os/exec"
	"testing"

	"github.com/edgeproxy/edgeproxy/gossip/membership"
)

// The tools of serf's users work: its agent joins, is listed without tags of
// ours, lists us with them, sends events and queries that cost us nothing, and
// leaves.
func TestSerfAgent(t *testing.T) {
	t.Parallel()
	bin, err := exec.LookPath("serf")
	if err != nil {
		t.Skip("no serf binary (Debian: apt-get install serf); the cluster tests want it")
	}
	a := start(t, membership.Config{Node: "a", Keys: [][]byte{key(1)}, Timing: quick, Tags: map[string]string{"region": "sa"}})
	free := func() string {
		l, err := net.Listen("tcp", own().String())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	rpc := free()
	var out bytes.Buffer
	agent := exec.Command(bin, "agent", "-node=debian", "-bind="+free(), "-rpc-addr="+rpc, "-tag=role=web",
		"-encrypt="+base64.StdEncoding.EncodeToString(key(1)), "-join="+a.Addr().String())
	agent.Stdout, agent.Stderr = &out, &out
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
		if t.Failed() {
			t.Logf("agent:\n%s", &out)
		}
	})
	a.until(t, "a=alive debian=alive")
	eventually(t, "its tags", patience, func() bool { return a.member("debian").Tags["role"] == "web" })

	run := func(args ...string) (string, error) {
		cmd := exec.Command(bin, append(args[:1:1], append([]string{"-rpc-addr=" + rpc}, args[1:]...)...)...)
		b, err := cmd.Output()
		return string(b), err
	}
	var listed struct {
		Members []struct {
			Name, Status string
			Tags         map[string]string
		}
	}
	eventually(t, "serf members lists both", patience, func() bool {
		text, err := run("members", "-format=json")
		return err == nil && json.Unmarshal([]byte(text), &listed) == nil && len(listed.Members) == 2
	})
	for _, m := range listed.Members {
		if m.Status != "alive" || m.Name == "a" && m.Tags["region"] != "sa" {
			t.Errorf("serf members: %+v", m)
		}
	}
	for range 20 {
		if _, err := run("event", "deploy", "v1"); err != nil {
			t.Errorf("event: %v", err)
		}
	}
	if text, err := run("query", "-timeout=2s", "uptime"); err != nil {
		t.Errorf("query: %v: %s", err, text)
	}
	eventually(t, "it knows the round trip to us", patience, func() bool {
		_, err := run("rtt", "debian", "a")
		return err == nil
	})
	if _, err := run("leave"); err != nil {
		t.Errorf("leave: %v", err)
	}
	a.until(t, "a=alive debian=left")
}
