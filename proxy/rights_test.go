package proxy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/rs/zerolog"
)

// scarce are rights of which one comes with every so many-th word, if ever.
type scarce struct {
	slot  *route.Slot
	every int64 // 0: never
	words atomic.Int64
}

func (s *scarce) Wait(ctx context.Context, _ string, _ bool) error {
	if s.every == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	if s.words.Add(1)%s.every == 0 {
		s.slot.Rights().AddRights(1)
	}
	return nil
}

// TestWaitForRight: a client whose POP lacks a right is served when it comes,
// and is refused, after a second, if it does not.
func TestWaitForRight(t *testing.T) {
	greeter := listen(t)
	defer greeter.Close()
	go func() {
		for {
			c, err := greeter.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}
	}()
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) { waitForRight(t, impl.make, greeter.Addr().(*net.TCPAddr).AddrPort()) })
	}
}

func waitForRight(t *testing.T, make func(Config, *route.Router, Geo, zerolog.Logger) relayUnderTest, addr netip.AddrPort) {
	for _, tc := range []struct {
		every int64
		want  string
	}{{1, "hello"}, {3, "hello"}, {0, ""}} {
		router := route.NewRouter(route.NewAffinity(0, 0))
		router.Strict()
		router.Update(snapshot(t, []target{{id: "a", addr: addr, hard: 1}}), time.Now())
		rights := &scarce{slot: router.Slots.Get("a"), every: tc.every}
		r := start(t, func(cfg Config, _ *route.Router, g Geo, log zerolog.Logger) relayUnderTest {
			return make(cfg, router, g, log)
		}, setup{Config: Config{Rights: rights}})
		began := time.Now()
		c, err := net.Dial("tcp", r.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(began.Add(patience))
		got, _ := io.ReadAll(c)
		_ = c.Close()
		if string(got) != tc.want {
			t.Errorf("a right with every %d. word: got %q, want %q", tc.every, got, tc.want)
		}
		if took := time.Since(began); tc.every == 0 && took < rightWait {
			t.Errorf("refused after %v, want %v", took, rightWait)
		}
		if n := r.Stats().RightWaits; n != 1 {
			t.Errorf("%d waits counted, want 1", n)
		}
	}
}
