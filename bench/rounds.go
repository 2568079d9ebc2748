//go:build linux

package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// measure runs all rounds. The results of what was finished come back also with an error.
func (r *rig) measure(ctx context.Context, targets []*target) (*results, error) {
	if err := r.placeBackends(ctx, targets); err != nil {
		return nil, err
	}
	var ins []*instance
	for _, t := range targets {
		in, err := r.launch(ctx, t, "main")
		if err != nil {
			return nil, err
		}
		ins = append(ins, in)
	}
	res := newResults(r.cfg.measures, describe(r.cfg, targets))
	for round := range r.cfg.rounds {
		for _, m := range r.cfg.measures {
			if err := r.once(ctx, res, m, rotate(ins, round), round); err != nil {
				return res, fmt.Errorf("round %d: %s: %w", round+1, m.name, err)
			}
		}
	}
	return res, nil
}

// rotate begins each round with another target, so that none is always the one that comes after the same other.
func rotate[T any](list []T, by int) []T {
	by %= len(list)
	return append(append([]T(nil), list[by:]...), list[:by]...)
}

// once measures one thing once on every target.
func (r *rig) once(ctx context.Context, res *results, m measure, ins []*instance, round int) error {
	note := func(name string, out outcome) {
		res.add(m, name, out)
		if line := progressLine(m, out); line != "" {
			fmt.Fprintf(r.progress, "round %d/%d  %-11s %-10s %s\n", round+1, r.cfg.rounds, m.name, name, line)
		}
	}
	if m.all != nil {
		outs, err := m.all(ctx, r, ins)
		if err != nil {
			return err
		}
		for _, name := range append([]string{direct}, instanceNames(ins)...) {
			if out, ok := outs[name]; ok {
				note(name, out)
				delete(outs, name)
			}
		}
		return nil
	}
	for _, in := range ins {
		out, err := m.each(ctx, r, in)
		if err != nil {
			return fmt.Errorf("%s: %w", in.name, err)
		}
		note(in.name, out)
	}
	return nil
}

func instanceNames(ins []*instance) []string {
	var out []string
	for _, in := range ins {
		out = append(out, in.name)
	}
	return out
}

func progressLine(m measure, out outcome) string {
	var parts []string
	for _, f := range m.figures {
		if v, ok := out.figures[f.key]; ok {
			_, short, _ := strings.Cut(f.key, ".")
			parts = append(parts, strings.TrimSpace(fmt.Sprintf("%s %s %s", short, number(v, f.digits), f.unit)))
		}
	}
	if out.errors > 0 {
		parts = append(parts, fmt.Sprintf("%d errors (%s)", out.errors, out.first))
	}
	return strings.Join(parts, "  ")
}

// environment says where the figures come from.
type environment struct {
	Time     string            `json:"time"` // RFC 3339
	Kernel   string            `json:"kernel"`
	CPUs     int               `json:"cpus"`
	Network  string            `json:"network"` // a namespace of its own, or shared with the machine
	Go       string            `json:"go"`
	Rounds   int               `json:"rounds"`
	Seconds  float64           `json:"seconds"`
	Conns    int               `json:"connections"`
	Streams  int               `json:"streams"`
	Idle     int               `json:"idle_connections"`
	Targets  []string          `json:"targets"`
	Versions map[string]string `json:"versions"`
}

func describe(cfg config, targets []*target) environment {
	env := environment{
		Time: time.Now().UTC().Format(time.RFC3339), Kernel: kernel(), CPUs: runtime.NumCPU(), Network: cfg.network, Go: runtime.Version(),
		Rounds: cfg.rounds, Seconds: cfg.window.Seconds(), Conns: cfg.conns, Streams: cfg.streams, Idle: cfg.idle,
		Versions: make(map[string]string),
	}
	for _, t := range targets {
		env.Targets = append(env.Targets, t.name)
		env.Versions[t.name] = t.version
	}
	return env
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
