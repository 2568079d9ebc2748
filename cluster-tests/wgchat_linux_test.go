package clustertests

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// chat is a line there and back on each of many connections, again and again.
type chat struct {
	end context.CancelFunc
	all sync.WaitGroup

	mu    sync.Mutex
	talks []talk
}

type talk struct {
	backend string
	lines   int           // that came back
	longest time.Duration // that one took
	err     error         // its end
}

// startChat talks until stop, or the end of the test.
func startChat(t testing.TB, visits []*visit) *chat {
	ctx, end := context.WithCancel(context.Background())
	c := &chat{end: end, talks: make([]talk, len(visits))}
	for i, v := range visits {
		c.talks[i].backend = v.backend
		c.all.Go(func() {
			for n := 0; waitUntil(ctx, time.Now().Add(100*time.Millisecond)); n++ {
				began := time.Now()
				err := v.echo(fmt.Sprintf("line %d of connection %d", n, i))
				c.note(i, time.Since(began), err)
				if err != nil {
					return
				}
			}
		})
	}
	t.Cleanup(func() {
		c.stop()
		closeAll(visits)
	})
	return c
}

func (c *chat) note(i int, took time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	talk := &c.talks[i]
	talk.longest = max(talk.longest, took)
	if talk.err = err; err == nil {
		talk.lines++
	}
}

// stop ends it; what is on its way comes back before.
func (c *chat) stop() {
	c.end()
	c.all.Wait()
}

// goesOn waits until each connection has carried two more lines, of which the
// second one began after this.
func (c *chat) goesOn(within time.Duration) error {
	c.mu.Lock()
	marks := make([]int, len(c.talks))
	for i, talk := range c.talks {
		marks[i] = talk.lines
	}
	c.mu.Unlock()
	return waitFor(within, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		behind := 0
		for i, talk := range c.talks {
			if talk.err != nil {
				return fmt.Errorf("connection %d to %s broke after %d lines: %w", i, talk.backend, talk.lines, talk.err)
			}
			if talk.lines < marks[i]+2 {
				behind++
			}
		}
		if behind > 0 {
			return fmt.Errorf("%d of %d connections carry nothing", behind, len(c.talks))
		}
		return nil
	})
}

func (c *chat) backends() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	on := map[string]int{}
	for _, talk := range c.talks {
		on[talk.backend]++
	}
	return on
}

func (c *chat) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines, longest := 0, []time.Duration(nil)
	for _, talk := range c.talks {
		lines += talk.lines
		longest = append(longest, talk.longest)
	}
	return fmt.Sprintf("%d lines on %d connections; the longest wait of each: %s", lines, len(c.talks), quantiles(longest))
}
