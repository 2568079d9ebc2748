package proxy_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/rs/zerolog"
)

// What docs/extending.md shows: a server with every port swapped.

type sticky struct{ sync.Map }

func (s *sticky) Get(k route.Key, _ time.Time) (string, bool) {
	v, ok := s.Load(k)
	id, _ := v.(string)
	return id, ok
}
func (s *sticky) Put(k route.Key, backend string, _ time.Time) { s.Store(k, backend) }
func (s *sticky) Len() (n int) {
	s.Range(func(any, any) bool { n++; return true })
	return n
}

type everywhereBrazil struct{}

func (everywhereBrazil) Lookup(netip.Addr) geo.Place { return geo.Place{Country: "BR", Region: geo.SA} }

func TestEveryPortCanBeSwapped(t *testing.T) {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := backend.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "served")
			c.Close()
		}
	})
	t.Cleanup(func() { backend.Close(); serving.Wait() })

	bindings := &sticky{}
	router := route.NewRouter(bindings)
	port := int64(backend.Addr().(*net.TCPAddr).Port)
	rows := mesh.Rows{Backends: [][]any{{"sa-1", "myapp", "sa", "127.0.0.1", port, int64(1), int64(2), int64(50), int64(100), int64(0)}}}
	router.Update(mesh.NewSnapshot(mesh.POP{Node: "mine", Region: geo.US}, rows, nil), time.Now())

	srv := proxy.New(proxy.Config{}, router, everywhereBrazil{}, zerolog.Nop())
	ln, err := proxy.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	serving.Go(func() {
		if err := srv.Serve(ctx, ln, proxy.App("myapp")); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)

	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); err != nil || string(got) != "served" {
		t.Fatalf("got %q, %v", got, err)
	}
	if bindings.Len() != 1 {
		t.Errorf("%d bindings in the store that was swapped in, want 1", bindings.Len())
	}
	stats := router.Slots.Stats()
	if len(stats) != 1 || stats[0].ID != "sa-1" || stats[0].Connects != 1 || stats[0].RTTLast <= 0 || stats[0].Picks[0] != 1 {
		t.Errorf("stats %+v: want one connect of sa-1 with its time, picked in tier 0", stats)
	}
	if srv.Metrics.Stats().Accepted != 1 {
		t.Errorf("accepted %d, want 1", srv.Metrics.Stats().Accepted)
	}
}
