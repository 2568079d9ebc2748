package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// TestBesideTheDaemon: a sqlite3 with a busy timeout never fails beside applies
// and folds at a lively pace, and a bare one next to never.
func TestBesideTheDaemon(t *testing.T) {
	cli, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Skip("no sqlite3 here")
	}
	p := newPop(t, newPath(t), "sa")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { // 20 changes a second, and the daemon's own rounds
		o := crdt.Origin{Node: "eu", Epoch: 1}
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for n, applied := uint64(0), uint64(0); ctx.Err() == nil; <-tick.C {
			if _, err := p.Fold(t.Context()); err != nil && !errors.Is(err, ErrLocked) { // as below: the next round does it
				t.Error(err)
			}
			if _, err := p.Poll(t.Context()); err != nil {
				t.Error(err)
			}
			if n++; n%5 == 0 {
				_, err := p.Apply(t.Context(), "eu", crdt.Delta{Ranges: []crdt.Range{{Origin: o, From: applied, To: n}}, Records: []crdt.Record{typical(o, n, 2)}})
				switch {
				case err == nil:
					applied = n
				case errors.Is(err, ErrLocked): // by a sqlite3 that waits for a disk which others keep busy
					n--
				default:
					t.Error(err)
				}
			}
		}
	})
	const writes = 80
	refused := 0
	next := time.NewTicker(40 * time.Millisecond)
	defer next.Stop()
	for i := range writes {
		<-next.C
		if i%2 == 0 {
			if out, err := exec.Command(cli, "-cmd", ".timeout 5000", p.path, fmt.Sprintf("INSERT INTO backends (id) VALUES ('cli-%d')", i)).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		} else if exec.Command(cli, p.path, fmt.Sprintf("INSERT INTO backends (id) VALUES ('cli-%d')", i)).Run() != nil {
			refused++
		}
	}
	cancel()
	wg.Wait()
	t.Logf("%d of %d bare writes were refused", refused, writes/2)
	// On a machine that has nothing else to do, none of them; where a daemon
	// that holds the file is made to wait for a core, those that fall into that.
	if refused > writes/4 {
		t.Errorf("%d of %d bare writes were refused", refused, writes/2)
	}
	p.fold()
	q := newPop(t, newPath(t), "us")
	q.pull(p, 1<<20)
	agree(t, p, q)
}

// TestTogether calls everything at once.
func TestTogether(t *testing.T) {
	p, q := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	var wg sync.WaitGroup
	done := make(chan struct{})
	again := func(what func(i int) error) {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if err := what(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	ctx := t.Context()
	for _, s := range []struct{ to, from *pop }{{p, q}, {q, p}} {
		again(func(i int) error {
			return s.to.Write(ctx, func(tx *Tx) error {
				return tx.Put(Backends, fmt.Sprint("row ", i%20), map[string]any{"weight": i})
			})
		})
		again(func(int) error { _, err := s.to.Fold(ctx); return err })
		again(func(int) error {
			heads, err := s.to.Heads(ctx)
			if err != nil {
				return err
			}
			d, _, err := s.from.Since(ctx, heads, 1000)
			if err != nil {
				return err
			}
			_, err = s.to.Apply(ctx, "peer", d)
			return err
		})
		again(func(i int) error {
			if _, err := s.to.Digest(ctx); err != nil {
				return err
			}
			if _, err := s.to.States(ctx, nil); err != nil {
				return err
			}
			f, err := s.to.Check(ctx)
			if err == nil && (len(f.Restored) > 0 || f.Edited > 0 || f.TriggersRestored) {
				err = fmt.Errorf("%+v", f)
			}
			return err
		})
		again(func(int) error {
			changed, err := s.to.Poll(ctx)
			if err == nil {
				err = s.to.Settle(ctx, changed, time.Now())
			}
			return err
		})
	}
	time.Sleep(time.Second)
	close(done)
	wg.Wait()
	for range 2 {
		p.fold()
		q.fold()
		p.pull(q, 1000)
		q.pull(p, 1000)
	}
	agree(t, p, q)
}
