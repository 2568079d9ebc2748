//go:build linux

package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/wg"
)

const askLimit = 30 * time.Second // beyond what a measurement takes

// socketDir is where wireguard-go has its sockets, one directory for all network namespaces.
const socketDir = "/var/run/wireguard"

// rig is two network namespaces with a cable between them, client's and backend's.
type rig struct {
	cfg      config
	modes    []mode // those that can be
	res      *results
	progress io.Writer
	spaces   [2]string
	made     []string // of spaces
	dir      string   // for keys
}

func newRig(ctx context.Context, cfg config, progress io.Writer) (*rig, error) {
	r := &rig{cfg: cfg, progress: progress}
	for i, side := range []string{"client", "backend"} {
		r.spaces[i] = fmt.Sprintf("edgeproxy-bench-%d-%s", os.Getpid(), side)
	}
	err := r.build()
	if err == nil {
		r.res = newResults(describe(ctx, cfg))
		r.chooseModes(ctx)
		if len(r.modes) == 0 {
			err = errors.New(strings.Join(r.res.notes, "; "))
		}
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *rig) build() (err error) {
	if r.dir, err = os.MkdirTemp("", "edgeproxy-overlay-"); err != nil {
		return err
	}
	for _, space := range r.spaces {
		if err := command("ip", "netns", "add", space); err != nil {
			return err
		}
		r.made = append(r.made, space)
	}
	if err := command("ip", "-n", r.spaces[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", r.spaces[1]); err != nil {
		return err
	}
	for i, space := range r.spaces {
		err := errors.Join(
			command("ip", "-n", space, "link", "set", "lo", "up"),
			command("ip", "-n", space, "addr", "add", bareAddress(i).String(), "dev", "cable"),
			command("ip", "-n", space, "link", "set", "cable", "up"))
		if err != nil {
			return err
		}
	}
	return nil
}

// close removes all that was made.
func (r *rig) close() {
	for _, space := range r.made {
		if err := command("ip", "netns", "del", space); err != nil {
			fmt.Fprintln(r.progress, "overlay:", err)
		}
	}
	r.made = nil
	if r.dir != "" {
		os.RemoveAll(r.dir)
	}
}

// chooseModes leaves out what this machine cannot, with a note.
func (r *rig) chooseModes(ctx context.Context) {
	for _, m := range r.cfg.modes {
		var why error
		switch m.name {
		case modeExternal:
			for _, tool := range []string{"wireguard-go", "wg"} {
				if _, err := exec.LookPath(tool); err != nil {
					why = fmt.Errorf("needs %s: apt-get install wireguard-go wireguard-tools", tool)
				}
			}
		case modeKernel:
			if why = command("ip", "-n", r.spaces[0], "link", "add", "probe", "type", "wireguard"); why == nil {
				why = command("ip", "-n", r.spaces[0], "link", "del", "probe")
			} else {
				why = errors.New("this kernel has no WireGuard")
			}
		}
		if why != nil {
			r.res.notes = append(r.res.notes, fmt.Sprintf("%s is left out: %v", m.name, why))
			continue
		}
		r.modes = append(r.modes, m)
	}
	r.res.env.Modes = modeNames(r.modes)
}

// measure runs all rounds, each of which begins with another mode, so that none always comes after the same other. The
// results of what was finished come back also with an error.
func (r *rig) measure(ctx context.Context) (*results, error) {
	for round := range r.cfg.rounds {
		for i := range r.modes {
			m := r.modes[(i+round)%len(r.modes)]
			s, err := r.once(ctx, m)
			if err != nil {
				return r.res, fmt.Errorf("round %d: %s: %w", round+1, m.name, err)
			}
			r.res.add(m.name, s)
			fmt.Fprintf(r.progress, "round %d/%d  %-13s %6.2f Gbit/s  %5.2f s/GB  %6.1f µs\n", round+1, r.cfg.rounds, m.name,
				s[keyRate], s[keyCPU], s[keyP50])
		}
	}
	return r.res, nil
}

func bareAddress(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, 0, byte(i + 1)}), 24)
}

// places are the two ends of m, with new keys.
func (r *rig) places(m mode) (places [2]place, err error) {
	for i, e := range []end{m.client, m.backend} {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return places, err
		}
		places[i] = place{
			End: e, Backend: i == 1, Bare: bareAddress(i), Overlay: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 50, 0, byte(i + 1)}), 24),
			Interface: fmt.Sprintf("eb%d%c", os.Getpid(), 'a'+i), // of both namespaces, for the sockets' sake
			Private:   [32]byte(key.Bytes()), Public: wg.Key(key.PublicKey().Bytes()),
		}
	}
	return places, nil
}

// pair is the processes of both ends.
type pair struct {
	client, backend *child
	all             []*child
	sockets         []string // that a killed wireguard-go would leave
}

func (p *pair) stop() {
	for i := len(p.all) - 1; i >= 0; i-- {
		p.all[i].stop()
	}
	for _, s := range p.sockets {
		os.Remove(s)
	}
}

// once measures a mode with processes of its own.
func (r *rig) once(ctx context.Context, m mode) (sample, error) {
	places, err := r.places(m)
	if err != nil {
		return nil, err
	}
	p := new(pair)
	defer p.stop()
	for _, i := range []int{1, 0} { // the backend first
		self, other := places[i], places[1-i]
		if err := r.seal(ctx, p, r.spaces[i], self, other); err != nil {
			return nil, err
		}
		c, err := startRole(r.spaces[i], roleEnd)
		if err != nil {
			return nil, err
		}
		p.all = append(p.all, c)
		if self.Backend {
			p.backend = c
		} else {
			p.client = c
		}
		if _, err := c.ask(ctx, askLimit, order{Open: &opening{self, other}}); err != nil {
			return nil, err
		}
	}
	return r.take(ctx, p)
}

// seal starts the WireGuard that is a process of its own, and sets its interface up.
func (r *rig) seal(ctx context.Context, p *pair, space string, self, other place) error {
	var c *child
	var err error
	switch self.End {
	case external:
		if c, err = startForeign(space, nil, "wireguard-go", "-f", self.Interface); err == nil {
			p.all = append(p.all, c)
			p.sockets = append(p.sockets, filepath.Join(socketDir, self.Interface+".sock"))
			err = r.tell(ctx, c, space, self, other)
		}
	case library:
		if c, err = startRole(space, roleWireGuard); err == nil {
			p.all = append(p.all, c)
			_, err = c.ask(ctx, askLimit, order{Open: &opening{self, other}})
		}
	default:
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(
		command("ip", "-n", space, "addr", "add", self.Overlay.String(), "dev", self.Interface),
		command("ip", "-n", space, "link", "set", self.Interface, "mtu", fmt.Sprint(wg.MTU), "up"))
}

// tell configures wireguard-go once it listens.
func (r *rig) tell(ctx context.Context, c *child, space string, self, other place) error {
	socket := filepath.Join(socketDir, self.Interface+".sock")
	for start := time.Now(); ; {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		select {
		case <-c.done:
			return fmt.Errorf("wireguard-go ended: %s", c.said.String())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
		if time.Since(start) > askLimit {
			return fmt.Errorf("wireguard-go makes no socket at %s: %s", socket, c.said.String())
		}
	}
	key := filepath.Join(r.dir, self.Interface)
	if err := os.WriteFile(key, []byte(base64.StdEncoding.EncodeToString(self.Private[:])+"\n"), 0o600); err != nil {
		return err
	}
	return command("ip", "netns", "exec", space, "wg", "set", self.Interface, "private-key", key, "listen-port", fmt.Sprint(wg.Port),
		"peer", other.Public.String(), "endpoint", other.endpoint().String(), "allowed-ips", single(other).String())
}

// moment is what counts, at one time.
type moment struct {
	bytes   int64
	at      time.Duration
	cpu     time.Duration // of both ends' processes
	kernel  time.Duration // of the kernel's own threads
	machine machineTime
}

// take measures streams first, then round trips on the then quiet way.
func (r *rig) take(ctx context.Context, p *pair) (sample, error) {
	if _, err := p.client.ask(ctx, askLimit, order{Stream: &streaming{r.cfg.streams, r.cfg.up}}); err != nil {
		return nil, err
	}
	if err := pause(ctx, min(r.cfg.window/4, time.Second)); err != nil { // until TCP has its pace
		return nil, err
	}
	from, err := r.look(ctx, p)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, r.cfg.window); err != nil {
		return nil, err
	}
	to, err := r.look(ctx, p)
	if err != nil {
		return nil, err
	}
	if _, err := p.client.ask(ctx, askLimit, order{Stop: true}); err != nil {
		return nil, err
	}
	if err := pause(ctx, min(r.cfg.window/10, 200*time.Millisecond)); err != nil { // what is still on its way
		return nil, err
	}
	pings, err := p.client.ask(ctx, askLimit+r.cfg.window, order{Ping: r.cfg.window / 3})
	if err != nil {
		return nil, err
	}
	return evaluate(from, to, pings)
}

func (r *rig) look(ctx context.Context, p *pair) (m moment, err error) {
	receiver := p.client
	if r.cfg.up {
		receiver = p.backend
	}
	a, err := receiver.ask(ctx, askLimit, order{Count: true})
	if err != nil {
		return m, err
	}
	m.bytes, m.at = a.Bytes, a.At
	for _, c := range p.all {
		used, err := c.cpu()
		if err != nil {
			return m, err
		}
		m.cpu += used
	}
	for _, pid := range kernelThreads() {
		used, _ := cpuOf(pid) // one that has ended in between did little
		m.kernel += used
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return m, err
	}
	m.machine, err = parseMachineTime(string(stat))
	return m, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
