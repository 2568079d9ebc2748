package gossip

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/memnet"
	"pgregory.net/rapid"
)

// ear keeps what a POP was told by a peer, as whoever listens would.
type ear struct {
	mu       sync.Mutex
	frames   int
	counts   map[string]int64
	verdicts map[string]bool
	suspects []string
	life     uint64
	seq      uint64
	age      time.Duration
}

func (e *ear) took(t *testing.T, l Load) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if l.Seq <= e.seq {
		t.Errorf("seq %d after %d", l.Seq, e.seq)
	}
	e.frames, e.seq, e.age = e.frames+1, l.Seq, l.Age
	e.hear(l)
}

func (e *ear) hear(l Load) {
	if e.counts == nil || l.Whole {
		e.counts, e.verdicts = map[string]int64{}, map[string]bool{}
	}
	maps.Copy(e.counts, l.Counts)
	for _, id := range l.Unchecked {
		delete(e.verdicts, id)
	}
	for id, v := range l.Verdicts {
		e.verdicts[id] = v.Up
	}
	e.suspects = append(e.suspects, l.Suspects...)
}

// TestLoads: all that a POP has when a stream begins, in as many frames as it
// takes; then what changes, at once, with half a round trip added to its age.
func TestLoads(t *testing.T) {
	const many = 25_000
	whole := Load{Life: 1, Whole: true, Counts: map[string]int64{}, Verdicts: map[string]LoadVerdict{}}
	for i := range many {
		whole.Counts[fmt.Sprint("c", i)] = int64(i)
		whole.Verdicts[fmt.Sprint("v", i)] = LoadVerdict{Up: i%2 == 0}
	}
	var heard ear
	bubble(t, memnet.Config{Latency: region}, "a b", func(c *Config) {
		if c.Node == "a" {
			c.WholeLoad = func() Load { return whole }
			return
		}
		c.TookLoad = func(peer string, l Load) {
			if peer != "a" {
				t.Errorf("a load of %s", peer)
			}
			heard.took(t, l)
		}
	}, func(t *testing.T, l *lab) {
		l.startAll()
		l.within(5*time.Second, "told", func() bool {
			heard.mu.Lock()
			defer heard.mu.Unlock()
			return len(heard.counts) == many && len(heard.verdicts) == many
		})
		if heard.frames < 2 {
			t.Errorf("%d frames for %d entries", heard.frames, 2*many)
		}
		l.pops["a"].mesh.PublishLoad(Load{Life: 1, Counts: map[string]int64{"c0": 7}, Unchecked: []string{"v1"}, Suspects: []string{"v2"}})
		took := l.within(time.Second, "told again", func() bool {
			heard.mu.Lock()
			defer heard.mu.Unlock()
			_, checked := heard.verdicts["v1"]
			return heard.counts["c0"] == 7 && !checked && slices.Equal(heard.suspects, []string{"v2"})
		})
		if took > 50*time.Millisecond {
			t.Errorf("told after %v", took)
		}
		if heard.age <= 0 || heard.age > 50*time.Millisecond {
			t.Errorf("age %v", heard.age)
		}
	})
}

// TestNoLoadForAnOlderPeer: one of protocol 1 would end the stream over a
// frame that it does not know.
func TestNoLoadForAnOlderPeer(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b", func(c *Config) {
		c.WholeLoad = func() Load { return Load{Whole: true, Counts: map[string]int64{"x": 1}} }
	}, func(t *testing.T, l *lab) {
		l.pops["a"].start()
		old := honest()
		old.max = 1
		r := infiltrate(l, old)
		l.within(5*time.Second, "connected", func() bool { return l.connected() == 1 })
		l.pops["a"].mesh.PublishLoad(Load{Counts: map[string]int64{"x": 2}})
		r.send(appendFrame(nil, kindPing, appendPing(1)))
		for {
			k, _, err := r.frames.next()
			if err != nil || k == kindLoad {
				t.Fatalf("frame of kind %d, %v", k, err)
			}
			if k == kindPong {
				return
			}
		}
	})
}

// TestLoadBounds: what nobody honest says ends the stream that said it.
func TestLoadBounds(t *testing.T) {
	frame := func(l Load) []byte { return appendFrame(nil, kindLoad, l.append) }
	for name, b := range map[string][]byte{
		"2^63 connections": frame(Load{Counts: map[string]int64{"a": -1 << 63}}),
		"connections":      frame(Load{Counts: map[string]int64{"a": MaxLoadCount + 1}}),
		"an age":           frame(Load{Age: MaxLoadAge + time.Second}),
		"a rate":           frame(Load{Rates: []LoadRate{{"a", "b", MaxLoadRate * 2}}}),
		"a verdict's age":  frame(Load{Verdicts: map[string]LoadVerdict{"a": {For: MaxLoadFor + time.Second}}}),
		"a reason":         frame(Load{Verdicts: map[string]LoadVerdict{"a": {Why: strings.Repeat("x", MaxLoadWhy+1)}}}),
		"suspects":         frame(Load{Suspects: make([]string, MaxSuspects+1)}),
		"no name":          frame(Load{Unchecked: []string{""}}),
		"no frame":         appendFrame(nil, kindLoad, func(b []byte) []byte { return append(b, bytes.Repeat([]byte{0xff}, 100)...) }),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, memnet.Config{Latency: region}, "a b", func(c *Config) {
				c.TookLoad = func(_ string, l Load) { t.Errorf("taken: %+v", l) }
			}, func(t *testing.T, l *lab) {
				l.pops["a"].start()
				r := infiltrate(l, honest())
				l.within(5*time.Second, "connected", func() bool { return l.connected() == 1 })
				r.send(b)
				l.within(time.Second, "counted", func() bool { return l.pops["a"].mesh.Stats().Garbage == 1 })
			})
		})
	}
}

// TestLoadsAsOne: a peer that hears two loads as one, cut into however many
// frames, knows the same as one that heard both.
func TestLoadsAsOne(t *testing.T) {
	id := rapid.SampledFrom([]string{"a", "b", "c"})
	load := rapid.Custom(func(t *rapid.T) Load {
		l := Load{Whole: rapid.Bool().Draw(t, "whole"), Counts: rapid.MapOf(id, rapid.Int64Range(0, 3)).Draw(t, "counts"), Verdicts: map[string]LoadVerdict{}}
		for _, b := range rapid.SliceOfDistinct(id, rapid.ID).Draw(t, "checked") {
			switch rapid.IntRange(0, 2).Draw(t, "verdict") {
			case 0:
				l.Unchecked = append(l.Unchecked, b)
			case 1:
				l.Verdicts[b] = LoadVerdict{Up: rapid.Bool().Draw(t, "up")}
			}
		}
		l.Suspects = rapid.SliceOfNDistinct(id, 0, 2, rapid.ID).Draw(t, "suspects")
		return l
	})
	rapid.Check(t, func(t *rapid.T) {
		var one, both ear
		first := load.Draw(t, "first")
		both.hear(first)
		queued := first
		for range rapid.IntRange(1, 4).Draw(t, "more") {
			next := load.Draw(t, "next")
			both.hear(next)
			if next.Whole {
				queued = next // as putLoad does
			} else {
				queued = queued.then(next)
			}
		}
		one.hear(queued)
		if !maps.Equal(one.counts, both.counts) || !maps.Equal(one.verdicts, both.verdicts) {
			t.Fatalf("%v %v as one, %v %v each by itself", one.counts, one.verdicts, both.counts, both.verdicts)
		}
	})
}

// TestCut: the parts are the whole.
func TestCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Load{Whole: true, Counts: map[string]int64{}, Verdicts: map[string]LoadVerdict{}}
		long := strings.Repeat("x", rapid.IntRange(0, 240).Draw(t, "length"))
		for i := range rapid.IntRange(0, 3000).Draw(t, "counts") {
			l.Counts[fmt.Sprint(long, i)] = 1
		}
		for i := range rapid.IntRange(0, 3000).Draw(t, "verdicts") {
			l.Verdicts[fmt.Sprint(long, i)] = LoadVerdict{Why: strings.Repeat("y", MaxLoadWhy)}
		}
		for i := range rapid.IntRange(0, 3000).Draw(t, "unchecked") {
			l.Unchecked = append(l.Unchecked, fmt.Sprint(long, "u", i))
		}
		counts, verdicts, unchecked := map[string]int64{}, map[string]LoadVerdict{}, []string{}
		for rest := &l; rest != nil; {
			var part Load
			part, rest = rest.cut()
			if n := len(part.append(nil)); n > loadPart+1024 || n < loadPart/2 && rest != nil {
				t.Fatalf("a part of %d bytes", n)
			}
			maps.Copy(counts, part.Counts)
			maps.Copy(verdicts, part.Verdicts)
			unchecked = append(unchecked, part.Unchecked...)
		}
		if !maps.Equal(counts, l.Counts) || !maps.Equal(verdicts, l.Verdicts) || !reflect.DeepEqual(append([]string{}, l.Unchecked...), unchecked) {
			t.Fatalf("%d, %d and %d entries", len(counts), len(verdicts), len(unchecked))
		}
	})
}
