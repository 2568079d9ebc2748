package clustertests

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// meshState is what a running POP says about the mesh, for the one line of its state.
func (p *pop) meshState() string {
	st, err := look[api.Status](p, "status")
	if err != nil {
		return ", status: " + err.Error()
	}
	r := st.Records
	s := fmt.Sprintf(", %d rows %s, missing %d, quarantined %d, tombstones %d, members", r.Rows, r.Digest, r.Missing, r.Quarantined, r.Tombstones)
	for _, m := range st.Members {
		s += " " + m.Name + "=" + m.Status
	}
	s += ", streams"
	for _, x := range st.Peers {
		s += fmt.Sprintf(" %s=%v(%d queued %s)", x.Node, x.Connected, x.Queued, x.Error)
	}
	if st.Waiting != "" {
		s += ", waiting: " + st.Waiting
	}
	return s
}

// states are those of some POPs, a line each.
func states(pops ...*pop) string {
	var s strings.Builder
	for _, p := range pops {
		s.WriteString("\n" + p.state())
	}
	return s.String()
}

// sees is nil where a POP sees this one with this status.
func (p *pop) sees(node, status string) error {
	members, err := look[[]api.Member](p, "members")
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Name == node {
			if m.Status == status {
				return nil
			}
			return fmt.Errorf("%s sees %s as %s, want %s", p.Node, node, m.Status, status)
		}
	}
	if status == "" {
		return nil
	}
	return fmt.Errorf("%s does not see %s, want it %s", p.Node, node, status)
}

// formed is nil where each POP sees exactly these alive, and has a stream to each.
func formed(pops ...*pop) error {
	var names []string
	for _, p := range pops {
		names = append(names, p.Node)
	}
	slices.Sort(names)
	for _, p := range pops {
		st, err := look[api.Status](p, "status")
		if err != nil {
			return err
		}
		var alive, connected []string
		for _, m := range st.Members {
			if m.Status == "alive" {
				alive = append(alive, m.Name)
			}
		}
		for _, s := range st.Peers {
			if s.Connected {
				connected = append(connected, s.Node)
			}
		}
		connected = append(connected, p.Node)
		slices.Sort(alive)
		slices.Sort(connected)
		if !slices.Equal(alive, names) || !slices.Equal(connected, names) {
			return fmt.Errorf("%s sees %q alive and has streams with %q, want %q", p.Node, alive, connected, names)
		}
	}
	return nil
}

// together waits until these form a mesh.
func together(t testing.TB, pops ...*pop) {
	t.Helper()
	if err := waitFor(soon, func() error { return formed(pops...) }); err != nil {
		t.Fatalf("%v%s", err, states(pops...))
	}
}

// tables is all that operators write, as sqlite3 prints it.
const tables = "SELECT 'backend', * FROM backends ORDER BY id; SELECT 'options', * FROM backend_options ORDER BY id"

// query is sql for those who must not end a test.
func (p *pop) query(statements string) (string, error) {
	out, err := cli("-cmd", untilFree, p.db, statements).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("sqlite3 %s: %w: %s", p.db, err, strings.TrimSpace(string(out)))
	}
	return string(out), err
}

// write is query whose output does not matter.
func (p *pop) write(statements string) error {
	_, err := p.query(statements)
	return err
}

// change asks the API to change something.
func (p *pop) change(method, path, body string) error {
	a, err := p.request(method, "/api/v1/"+path, body)
	if err == nil && a.code/100 != 2 {
		err = fmt.Errorf("%s %s: %d %s", method, path, a.code, strings.TrimSpace(a.body))
	}
	return err
}

// command is what the command line changes.
func (p *pop) do(args ...string) error {
	out, err := p.command(args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("edgeproxy %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return err
}

// same is nil where the tables of all are equal, and the digests they print.
func same(pops ...*pop) error {
	digest := ""
	for _, p := range pops {
		st, err := look[api.Status](p, "status")
		if err != nil {
			return err
		}
		if digest != "" && st.Records.Digest != digest || st.Records.Digest == "" {
			return fmt.Errorf("%s has digest %q, %s %q%s", p.Node, st.Records.Digest, pops[0].Node, digest, pops[0].against(p))
		}
		digest = st.Records.Digest
	}
	for _, p := range pops[1:] {
		if d := pops[0].against(p); d != "" {
			return errors.New("equal digests" + d)
		}
	}
	return nil
}

// against is how the tables of two POPs differ, "" where they do not.
func (p *pop) against(q *pop) string {
	a, err := p.query(tables)
	b, err2 := q.query(tables)
	if err := errors.Join(err, err2); err != nil {
		return "\n" + err.Error()
	}
	if a == b {
		return ""
	}
	const most = 10
	in, text, n := map[string]bool{}, "", 0
	for line := range strings.Lines(a) {
		in[line] = true
	}
	for line := range strings.Lines(b) {
		if !in[line] {
			if n++; n <= most {
				text += "\n  only " + q.Node + ": " + strings.TrimSpace(line)
			}
		}
		delete(in, line)
	}
	for _, line := range sorted(in) {
		if n++; n <= 2*most {
			text += "\n  only " + p.Node + ": " + strings.TrimSpace(line)
		}
	}
	return fmt.Sprintf("; %d lines differ:%s", n, text)
}

// settle waits until all hold the same, and returns how long that took.
func settle(t testing.TB, within time.Duration, pops ...*pop) time.Duration {
	t.Helper()
	began := time.Now()
	if err := waitFor(within, func() error { return same(pops...) }); err != nil {
		t.Fatalf("%v%s", err, states(pops...))
	}
	return time.Since(began)
}

// everywhere waits until a query has this answer on all.
func everywhere(t testing.TB, query, want string, pops ...*pop) {
	t.Helper()
	err := waitFor(soon, func() error {
		for _, p := range pops {
			got, err := p.query(query)
			if err == nil && strings.TrimSpace(got) != want {
				err = fmt.Errorf("on %s %s says %q, want %q", p.Node, query, strings.TrimSpace(got), want)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v%s", err, states(pops...))
	}
}
