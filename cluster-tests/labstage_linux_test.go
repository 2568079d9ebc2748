package clustertests

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var labRegions = []string{"sa", "us", "eu"}

// containers is the lab as a place for scenarios. There is one lab, so they
// are played one after the other; each begins by putting it in order.
type containers struct {
	lab   *lab
	t     testing.TB
	mesh  *mesh
	ids   map[*pop]string // of the containers
	links map[[2]int]link
}

func newContainers(t testing.TB, l *lab) *containers {
	return &containers{lab: l, t: t, ids: map[*pop]string{}, links: map[[2]int]link{}}
}

func (c *containers) refuses(fault string) string {
	switch fault {
	case "delay":
		return "nothing between containers delays packets"
	case "disk":
		return "the volumes of the lab are on the disk of this machine"
	case "skew":
		return "a container's settings last as long as it does"
	case "upgrade":
		return "process 1 of a container cannot be replaced by another"
	case "join":
		return "an extra POP has no volume in which its rows could be read"
	}
	return ""
}

// docker runs a command of the engine.
func docker(args ...string) (string, error) {
	return tool(time.Minute, "", append([]string{"docker"}, args...)...)
}

func (c *containers) raise(n int) *mesh {
	c.t.Helper()
	if n != len(labRegions) {
		c.t.Skipf("the lab has three POPs, not %d", n)
	}
	c.mesh = &mesh{}
	for i, region := range labRegions {
		p, err := c.find(region, labAddr(0, i+1))
		if err != nil {
			c.t.Fatal(err)
		}
		c.mesh.pops = append(c.mesh.pops, p)
	}
	c.t.Cleanup(func() {
		if c.t.Failed() {
			for _, p := range c.mesh.pops {
				log, _ := docker("logs", "--tail", "60", c.ids[p])
				c.t.Logf("%s\n%s", p.state(), log)
			}
		}
	})
	if err := c.order(); err != nil {
		c.t.Fatal(err)
	}
	together(c.t, c.mesh.pops...)
	settle(c.t, converged, c.mesh.pops...)
	return c.mesh
}

// find is a POP of the lab as the tests know POPs.
func (c *containers) find(region string, addr netip.Addr) (*pop, error) {
	id, err := c.lab.container("pop-" + region)
	if err != nil {
		return nil, err
	}
	dir, err := c.lab.volume(region)
	if err != nil {
		return nil, err
	}
	p := &pop{dir: dir, db: filepath.Join(dir, "routing.db"), token: c.lab.token, log: &logBuffer{}, container: id, env: []string{"EDGEPROXY_REGION=" + region}}
	p.Node, p.API, p.Listen = "pop-"+region, addr.String()+":8180", addr.String()+":8080"
	c.ids[p] = id
	return p, nil
}

// order undoes what a scenario before has done: rows, and clients that are
// bound to backends, which a restart forgets.
func (c *containers) order() error {
	var all sync.WaitGroup
	errs := make([]error, len(c.mesh.pops))
	for i, p := range c.mesh.pops {
		_, _ = docker("unpause", c.ids[p]) // most are not paused
		all.Go(func() { _, errs[i] = docker("restart", "-t", "10", c.ids[p]) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, p := range c.mesh.pops {
		if err := waitFor(soon, p.isReady); err != nil {
			return err
		}
	}
	return c.mesh.pops[0].write("DELETE FROM backends WHERE app='" + scenarioApp + "'; UPDATE backends SET healthy=1, weight=1+(id LIKE '%-1') WHERE app='myapp'")
}

func (c *containers) add(*mesh) *pop { panic("refused") }

func (c *containers) power(p *pop, to string) error {
	command := map[string]string{"run": "start", "resume": "unpause"}[to]
	if command == "" {
		command = to
	}
	if _, err := docker(command, c.ids[p]); err != nil || to != "run" {
		return err
	}
	if err := waitFor(soon, func() error { _, _, err := p.ready(); return err }); err != nil {
		return err
	}
	return c.filter() // its namespace is a new one
}

func (c *containers) change(from, to int, f func(*link)) error {
	at := c.links[[2]int{from, to}]
	f(&at)
	c.links[[2]int{from, to}] = at
	return c.filter()
}

func (c *containers) heal() error {
	clear(c.links)
	return c.filter()
}

// filter has every POP drop what does not arrive.
func (c *containers) filter() error {
	pids, addrs := make([]string, len(c.mesh.pops)), make([]string, len(c.mesh.pops))
	for i, p := range c.mesh.pops { // some get new addresses with each start
		text, err := docker("inspect", "-f", "{{.State.Pid}}{{range .NetworkSettings.Networks}} {{.IPAddress}}{{end}}", c.ids[p])
		if err != nil {
			return err
		}
		f := strings.Fields(text)
		pids[i], addrs[i] = f[0], strings.Join(f[1:], ", ")
	}
	for i, pid := range pids {
		if pid == "0" {
			continue // it does not run: filtered when it does
		}
		var rules strings.Builder
		for j, from := range addrs {
			switch l := c.links[[2]int{j, i}]; {
			case from == "": // it does not run
			case l.cut:
				fmt.Fprintf(&rules, "  ip saddr { %s } drop\n", from)
			case l.loss > 0:
				fmt.Fprintf(&rules, "  ip saddr { %s } numgen random mod 100 < %d drop\n", from, l.loss)
			}
		}
		script := "table inet scenario\ndelete table inet scenario\ntable inet scenario {\n chain in {\n  type filter hook input priority 0\n" + rules.String() + " }\n}\n"
		if _, err := tool(20*time.Second, script, "nsenter", "-t", pid, "-n", "nft", "-f", "-"); err != nil {
			return err
		}
	}
	return nil
}

func (c *containers) backends(*mesh) (map[string]netip.AddrPort, error) {
	all := map[string]netip.AddrPort{}
	for network, region := range labRegions {
		for i := range 3 {
			all[fmt.Sprintf("%s-node-%d", region, i+1)] = netip.AddrPortFrom(labAddr(network+1, i+1), 8080)
		}
	}
	return all, nil
}

func (c *containers) backend(id string, up bool) error {
	container, err := c.lab.container(id)
	if err != nil {
		return err
	}
	if up {
		_, err = docker("start", container)
		return err
	}
	c.t.Cleanup(func() { // for the next scenario
		if _, err := docker("start", container); err != nil {
			c.t.Error(err)
		}
	})
	_, err = docker("stop", "-t", "1", container)
	return err
}

// call has the client of the POP's region do it, whose PROXY headers count.
func (c *containers) call(p *pop, from netip.Prefix, n int) (who []string, err error) {
	region := p.setting("EDGEPROXY_REGION")
	id, err := c.lab.container("client-" + region)
	if err != nil {
		return nil, err
	}
	out, err := docker("exec", id, "/mock-backend", "-call", "pop-"+region+":8080", "-from", from.String(), "-n", fmt.Sprint(n))
	if err != nil {
		return nil, err
	}
	if who, err = greeters(out); err != nil {
		return who, err
	}
	if len(who) != n {
		return who, fmt.Errorf("%d answers, want %d", len(who), n)
	}
	return who, nil
}

func (c *containers) visit(p *pop) error {
	v, err := p.call("")
	if err != nil {
		return err
	}
	defer v.Close()
	return v.echo("hello")
}

func (c *containers) disk(*pop, bool) error { return errors.New(c.refuses("disk")) }
