package proxy

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/rs/zerolog"
)

// TestGiveAway: one server after the other takes the listeners over, each
// relaying in its own way, while clients come all the time. None is refused or
// reset, whichever queue it waits in, and who is there stays.
func TestGiveAway(t *testing.T) {
	b := newBackend(t, echo)
	router := route.NewRouter(route.NewAffinity(0, 0))
	router.Update(snapshot(t, b.one()), time.Now())
	type generation struct {
		srv *Server
		ln  *net.TCPListener
		end context.CancelFunc
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	serve := func(relay Relay, ln *net.TCPListener, others ...*net.TCPListener) generation {
		g := generation{srv: New(Config{Relay: relay, Settings: Settings{Drain: time.Hour}}, router, fakeGeo{}, zerolog.Nop()), ln: ln}
		ctx, end := context.WithCancel(context.Background())
		g.end = end
		serving.Go(func() {
			if err := g.srv.Serve(ctx, ln, App(""), others...); err != nil {
				t.Error(err)
			}
		})
		eventually(t, "it serves", func() bool {
			files, err := g.srv.Files(ln)
			for _, f := range files {
				f.Close()
			}
			return err == nil
		})
		return g
	}
	ln := listen(t)
	addr := ln.Addr().String()
	now := serve(Reactor, ln)

	var clients sync.WaitGroup
	var visits atomic.Int64
	over := make(chan struct{})
	for range 8 {
		clients.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Errorf("a client is refused: %v", err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				if _, err = c.Write([]byte("ping")); err == nil {
					_, err = c.Read(make([]byte, 4))
				}
				c.Close()
				if err != nil {
					t.Errorf("a client is dropped: %v", err)
					return
				}
				visits.Add(1)
			}
		})
	}
	var long []*net.TCPConn
	for _, relay := range []Relay{Reactor, Goroutines, Goroutines, Reactor, Reactor} {
		c := dial(t, now.ln.Addr().(*net.TCPAddr).AddrPort())
		roundTrip(t, c)
		long = append(long, c)
		before := visits.Load()
		eventually(t, "clients come", func() bool { return visits.Load() > before+50 || t.Failed() })

		files, err := now.srv.Files(now.ln)
		if err != nil {
			t.Fatal(err)
		}
		var lns []*net.TCPListener
		for _, f := range files {
			ln, err := net.FileListener(f)
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			lns = append(lns, ln.(*net.TCPListener))
		}
		next := serve(relay, lns[0], lns[1:]...)
		now.srv.GiveAway(now.ln)
		now.end()
		now = next
	}
	before := visits.Load()
	eventually(t, "clients come to the last one", func() bool { return visits.Load() > before+50 || t.Failed() })
	for _, c := range long { // whichever of two generations accepted it
		roundTrip(t, c)
		c.Close()
	}
	close(over)
	clients.Wait()
	now.end()
}
