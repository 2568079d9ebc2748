//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	launchLimit = 15 * time.Second            // from exec to the first reply
	askGrace    = 2*patience + 10*time.Second // beyond a job's own time
	dialPause   = 250 * time.Microsecond      // between attempts to reach a target that starts
)

// rig is everything that runs: the helpers and the proxies.
type rig struct {
	cfg      config
	dir      string
	progress io.Writer
	load     *helper
	backend  *helper
	free     *ports
	running  []*instance
}

// instance is one running target.
type instance struct {
	*target
	addrs  []netip.AddrPort // where clients connect
	proc   *process         // nil for direct
	accept time.Duration    // from exec to the first accepted connection
	reply  time.Duration    // from exec to the first reply that came through
}

func (in *instance) pids() []int {
	if in.proc == nil {
		return nil
	}
	return in.proc.pids()
}

func newRig(cfg config, dir string, progress io.Writer) (*rig, error) {
	free, err := newPorts()
	if err != nil {
		return nil, err
	}
	r := &rig{cfg: cfg, dir: dir, progress: progress, free: free}
	if r.load, err = startHelper(roleLoad, dir); err != nil {
		return nil, err
	}
	if r.backend, err = startHelper(roleBackend, dir); err != nil {
		r.load.close()
		return nil, err
	}
	return r, nil
}

// close ends every child that is left.
func (r *rig) close() {
	for _, in := range r.running {
		_ = in.proc.stop()
	}
	r.load.close()
	r.backend.close()
}

// placeBackends gives every target its addresses and opens them all.
func (r *rig) placeBackends(ctx context.Context, targets []*target) error {
	port, err := r.free.take()
	if err != nil {
		return err
	}
	job := backendJob{Workers: workers()}
	for i, t := range targets {
		t.place(i, port)
		job.Addrs = append(job.Addrs, t.backends...)
	}
	var reply backendReply
	if err := r.backend.ask(ctx, askGrace, job, &reply); err != nil {
		return err
	}
	if reply.Err != "" {
		return errors.New(reply.Err)
	}
	return nil
}

// launch starts a target in a directory that belongs to it under that name, and waits until a request comes through.
func (r *rig) launch(ctx context.Context, t *target, as string) (*instance, error) {
	if t.command == nil {
		return &instance{target: t, addrs: t.backends}, nil
	}
	dir := filepath.Join(r.dir, t.name+"-"+as)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	port, err := r.free.take()
	if err != nil {
		return nil, err
	}
	listen := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	cmd, err := t.command(ctx, dir, listen, t.backends, r.free)
	if err != nil {
		return nil, err
	}
	cmd.Dir = dir
	in := &instance{target: t, addrs: []netip.AddrPort{listen}}
	begin := time.Now()
	if in.proc, err = spawn(t.name, cmd, filepath.Join(dir, "output.log")); err != nil {
		return nil, err
	}
	r.running = append(r.running, in)
	if err := in.awaitReply(ctx, begin); err != nil {
		_ = r.halt(in) // its end is told already
		return nil, fmt.Errorf("%s on %s: %w\n%s", t.name, listen, err, tail(in.proc.log))
	}
	return in, nil
}

// halt ends one instance.
func (r *rig) halt(in *instance) error {
	if in.proc == nil {
		return nil
	}
	r.running = slices.DeleteFunc(r.running, func(o *instance) bool { return o == in })
	return in.proc.stop()
}

// awaitReply connects until a connection is accepted, and then until one is answered.
func (in *instance) awaitReply(ctx context.Context, begin time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, launchLimit)
	defer cancel()
	dialer := &net.Dialer{}
	last := errors.New("not tried yet")
	for {
		c, err := dialer.DialContext(ctx, "tcp", in.addrs[0].String())
		if err == nil {
			if in.accept == 0 {
				in.accept = time.Since(begin)
			}
			err = exchange(c)
		}
		if err == nil {
			in.reply = time.Since(begin)
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no reply within %s: %w", launchLimit, last)
		case <-in.proc.done:
			return fmt.Errorf("ended at start: %w", in.proc.err)
		case <-time.After(dialPause):
		}
	}
}

// exchange sends one request over c, waits for the reply and closes c.
func exchange(c net.Conn) error {
	defer c.Close()
	msg := [messageSize]byte{wantEcho}
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := c.Write(msg[:]); err != nil {
		return err
	}
	_, err := io.ReadFull(c, msg[:])
	return err
}

// ask has the load generator do a job on an instance.
func (r *rig) ask(ctx context.Context, in *instance, j loadJob) (loadResult, error) {
	if j.Addrs == nil {
		j.Addrs, j.Sources = in.addrs, in.sources
	}
	j.Workers = workers()
	j.PIDs = map[string][]int{groupBackend: r.backend.pids()}
	if pids := in.pids(); pids != nil {
		j.PIDs[groupProxy] = pids
	}
	var res loadResult
	if err := r.load.ask(ctx, j.Warm+j.Window+askGrace, j, &res); err != nil {
		return res, err
	}
	if in.proc != nil && in.proc.ended() {
		return res, r.halt(in)
	}
	if res.Err != "" {
		return res, errors.New(res.Err)
	}
	return res, nil
}

// ports hands out TCP ports below (or above) those that the kernel gives to outgoing connections, one of which might
// otherwise sit on a port before its listener does.
type ports struct{ low, next, high int }

func newPorts() (*ports, error) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return nil, err
	}
	var from, to int
	if _, err := fmt.Sscan(string(b), &from, &to); err != nil {
		return nil, fmt.Errorf("ip_local_port_range %q: %w", b, err)
	}
	p := &ports{low: 10000, high: from}
	if from < 12000 {
		p.low, p.high = to+1, 65536
	}
	if p.high <= p.low {
		return nil, fmt.Errorf("net.ipv4.ip_local_port_range %d–%d leaves no ports to listen on", from, to)
	}
	p.next = p.low + rand.IntN(p.high-p.low)
	return p, nil
}

// take returns a port that is free on every local address. It is not handed out again before all others.
func (p *ports) take() (uint16, error) {
	var last error
	for range p.high - p.low {
		port := p.next
		if p.next++; p.next == p.high {
			p.next = p.low
		}
		ln, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port))
		if err == nil {
			return uint16(port), ln.Close()
		}
		last = err
	}
	return 0, fmt.Errorf("find a free port: %w", last)
}
