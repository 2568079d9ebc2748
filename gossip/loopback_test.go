package gossip

import (
	"context"
	"fmt"
	"math"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/rs/zerolog"
)

// realPOP is a Mesh on a loopback socket.
type realPOP struct {
	*Mesh
	store *memStore
	addr  string
	heard chan crdt.Applied
}

func realPOPs(t testing.TB, names ...string) (pops []*realPOP) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	key := clusterKey(t, "A")
	var roster []Peer
	for _, name := range names {
		p := &realPOP{store: newMemStore(name), heard: make(chan crdt.Applied, 1<<16)}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p.addr = ln.Addr().String()
		p.Mesh, err = New(Config{
			Node: name, Nonce: name, Credentials: credentials(t, name, key), Store: p.store,
			Applied: func(_ string, a crdt.Applied) {
				if len(a.Changed) > 0 {
					p.heard <- a
				}
			},
		}, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := p.Serve(ctx, ln); err != nil {
				t.Error(err)
			}
		})
		pops, roster = append(pops, p), append(roster, Peer{Node: name, Addr: p.addr})
	}
	for _, p := range pops {
		p.SetPeers(roster)
	}
	for _, p := range pops {
		select {
		case <-p.Synced():
		case <-time.After(10 * time.Second):
			t.Fatalf("%s is not synced: %+v", p.addr, p.Peers())
		}
	}
	return pops
}

func (p *realPOP) write(id string, n int) {
	p.store.mu.Lock()
	d := p.store.replica.Write(backend(id), crdt.At(time.Now().UnixMilli()), map[string]crdt.Value{"weight": crdt.IntValue(int64(n))})
	p.store.mu.Unlock()
	p.Publish(d)
}

func TestLoopback(t *testing.T) {
	pops := realPOPs(t, "a", "b", "c")
	deadline := time.Now().Add(20 * time.Second)
	for i := range 2000 {
		pops[i%3].write(fmt.Sprint("row", i%100), i)
	}
	for pops[0].store.sum() != pops[1].store.sum() || pops[0].store.sum() != pops[2].store.sum() {
		if time.Now().After(deadline) {
			t.Fatalf("not equal: %+v", pops[0].Peers())
		}
		breathe()
	}
	st := pops[0].Peers()
	if len(st) != 2 || st[0].BytesIn == 0 || st[0].BytesOut == 0 || st[0].RTT <= 0 {
		t.Errorf("peers %+v", st)
	}
}

// breathe lets the POPs run; there is nothing to wait for but them.
func breathe() { <-time.After(time.Millisecond) }

// BenchmarkPropagation is from Publish on one POP to Applied on another, over
// TLS on loopback, for single writes at rest.
func BenchmarkPropagation(b *testing.B) {
	pops := realPOPs(b, "a", "b")
	var took []float64
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		pops[0].write("x", i)
		<-pops[1].heard
		took = append(took, float64(time.Since(start).Microseconds()))
	}
	percentiles(b, took)
}

// BenchmarkPropagationSpaced leaves more than a flush between two writes.
func BenchmarkPropagationSpaced(b *testing.B) {
	pops := realPOPs(b, "a", "b")
	var took []float64
	for i := 0; b.Loop(); i++ {
		<-time.After(15 * time.Millisecond)
		start := time.Now()
		pops[0].write("x", i)
		<-pops[1].heard
		took = append(took, float64(time.Since(start).Microseconds()))
	}
	percentiles(b, took)
}

func percentiles(b *testing.B, took []float64) {
	slices.Sort(took)
	at := func(q float64) float64 {
		return took[min(len(took)-1, int(math.Ceil(q*float64(len(took)))))]
	}
	b.ReportMetric(at(0.5), "µs/p50")
	b.ReportMetric(at(0.99), "µs/p99")
}

// BenchmarkThroughput is rows per second from one POP's writes to another's
// store.
func BenchmarkThroughput(b *testing.B) {
	pops := realPOPs(b, "a", "b")
	rows := 0
	for i := 0; b.Loop(); i++ {
		for j := range 1000 {
			pops[0].write(fmt.Sprint("row", j), i)
		}
		for got := 0; got < 1000; {
			a := <-pops[1].heard
			for _, rec := range a.Changed {
				if rec.Cell("weight").Value == crdt.IntValue(int64(i)) {
					got++
				}
			}
		}
		rows += 1000
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
}
