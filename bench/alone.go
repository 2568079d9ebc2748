//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// start measures a process of its own, on files that an earlier one has left (but in the first round).
func start(ctx context.Context, r *rig, in *instance) (outcome, error) {
	return r.alone(ctx, in.target, "fresh", func(fresh *instance) (outcome, error) {
		ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
		return outcome{figures: sample{"start.accept": ms(fresh.accept), "start.reply": ms(fresh.reply)}}, nil
	})
}

// alone has a process of its own measured.
func (r *rig) alone(ctx context.Context, t *target, as string, measure func(*instance) (outcome, error)) (outcome, error) {
	fresh, err := r.launch(ctx, t, as)
	if err != nil || fresh.proc == nil {
		return outcome{}, err
	}
	out, err := measure(fresh)
	if err != nil {
		_ = r.halt(fresh)
		return out, err
	}
	return out, r.halt(fresh)
}

// hold opens connections that have carried one request, and finds what the process takes then.
func (r *rig) hold(ctx context.Context, in *instance, conns int) (footprint, error) {
	res, err := r.ask(ctx, in, loadJob{Kind: jobHold, Conns: conns, Window: launchLimit})
	if err == nil && res.Held < conns {
		err = fmt.Errorf("only %d of %d connections opened: %s", res.Held, conns, res.First)
	}
	if err != nil {
		return footprint{}, err
	}
	time.Sleep(r.cfg.settle)
	return footprintOf(in.pids())
}

// curve is the whole memory of a process of its own, with more and more connections.
func curve(ctx context.Context, r *rig, in *instance) (outcome, error) {
	return r.alone(ctx, in.target, "fresh", func(fresh *instance) (outcome, error) {
		out := outcome{figures: sample{}}
		for _, share := range []int{800, 80, 8, 1} { // of the most
			found, err := r.hold(ctx, fresh, max(r.cfg.most/share, 1))
			if err == nil {
				_, err = r.ask(ctx, fresh, loadJob{Kind: jobRelease})
			}
			if err != nil {
				return out, err
			}
			out.figures[fmt.Sprintf("curve.%d", share)] = found.rss / (1 << 20)
		}
		return out, nil
	})
}

// many is what a connection costs where there are few backends, and where there are many: the same nine under other names.
// The two processes are measured one after the other, so that the machine's mood is the same.
func many(ctx context.Context, r *rig, in *instance) (outcome, error) {
	all := outcome{figures: sample{}}
	for _, c := range []struct {
		key      string
		backends int
	}{{"many.few", r.cfg.few}, {"many.many", 1000 * r.cfg.few}} {
		t := *in.target
		t.backends = nil
		for i := range c.backends {
			t.backends = append(t.backends, in.backends[i%len(in.backends)])
		}
		_, err := r.alone(ctx, &t, c.key, func(fresh *instance) (outcome, error) {
			res, out, err := r.windowed(ctx, fresh, loadJob{Kind: jobConnect, Conns: r.cfg.conns, Reset: true})
			if err == nil {
				res.perOp(all.figures, c.key, float64(res.Ops), time.Microsecond)
				all.errors += out.errors
				all.first = cmp.Or(all.first, out.first)
			}
			return out, err
		})
		if err != nil {
			return all, fmt.Errorf("%d backends: %w", c.backends, err)
		}
	}
	if few := all.figures["many.few"]; few > 0 {
		all.figures["many.times"] = all.figures["many.many"] / few
	}
	return all, nil
}

// idle measures a process of its own too: one that has been under load keeps memory that hides what a connection takes.
func idle(ctx context.Context, r *rig, in *instance) (outcome, error) {
	return r.alone(ctx, in.target, "fresh", func(fresh *instance) (outcome, error) { return r.idleOf(ctx, fresh) })
}

func (r *rig) idleOf(ctx context.Context, in *instance) (outcome, error) {
	// What is set up once is not a connection's. But few, for what they leave in pools is the next ones' and yet not counted.
	if _, err := r.hold(ctx, in, 4); err != nil {
		return outcome{}, err
	}
	if _, err := r.ask(ctx, in, loadJob{Kind: jobRelease}); err != nil {
		return outcome{}, err
	}
	time.Sleep(r.cfg.settle)
	before, err := footprintOf(in.pids())
	if err != nil {
		return outcome{}, err
	}
	after, err := r.hold(ctx, in, r.cfg.idle)
	if err != nil {
		return outcome{}, err
	}
	res, err := r.ask(ctx, in, loadJob{Kind: jobRelease})
	if err != nil {
		return outcome{}, err
	}
	n := float64(r.cfg.idle)
	out := outcome{figures: sample{
		"idle.rss":  (after.rss - before.rss) / n / 1024,
		"idle.fds":  (after.fds - before.fds) / n,
		"idle.base": before.rss / (1 << 20),
	}}
	if lost := r.cfg.idle - res.Held; lost > 0 {
		out.errors, out.first = int64(lost), "idle connection closed by the other side"
	}
	return out, nil
}
