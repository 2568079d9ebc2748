package memnet_test

import (
	"encoding/binary"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/memnet"
	"github.com/hashicorp/memberlist"
)

// shoot sends packets 0..count-1, a millisecond apart, and returns what came.
func shoot(t *testing.T, n *memnet.Net, count int) (got []uint32, delays []time.Duration) {
	t.Helper()
	from, to := n.Host("10.0.0.1").Transport(7946), n.Host("10.0.0.2").Transport(7946)
	sent := make([]time.Time, count)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for quiet := time.NewTimer(time.Minute); ; {
			select {
			case p := <-to.PacketCh():
				i := binary.BigEndian.Uint32(p.Buf)
				got, delays = append(got, i), append(delays, p.Timestamp.Sub(sent[i]))
				if p.From.String() != "10.0.0.1:7946" {
					t.Errorf("from %s", p.From)
				}
			case <-quiet.C:
				return
			}
		}
	}()
	for i := range count {
		sent[i] = time.Now()
		if _, err := from.WriteTo(binary.BigEndian.AppendUint32(nil, uint32(i)), "10.0.0.2:7946"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	<-done
	return got, delays
}

func TestPackets(t *testing.T) {
	const count = 4000
	cfg := memnet.Config{Latency: 50 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.1, Duplicate: 0.05, Reorder: 0.1}
	bubble(t, cfg, func(t *testing.T, n *memnet.Net) {
		got, delays := shoot(t, n, count)
		if low, high := slices.Min(delays), slices.Max(delays); low < 50*time.Millisecond || low > 52*time.Millisecond || high < 80*time.Millisecond || high > 125*time.Millisecond {
			t.Errorf("packets took %v to %v", low, high)
		}
		if slices.IsSorted(got) {
			t.Error("nothing was reordered")
		}
		seen := map[uint32]int{}
		for _, i := range got {
			seen[i]++
		}
		if lost := count - len(seen); lost < count*8/100/2 || lost > count*12/100 {
			t.Errorf("%d of %d lost, want about 10 %%", lost, count)
		}
		if twice := len(got) - len(seen); twice < count*3/100 || twice > count*7/100 {
			t.Errorf("%d of %d came twice, want about 5 %%", twice, count)
		}
	})
}

func TestPerfectPackets(t *testing.T) {
	bubble(t, memnet.Config{}, func(t *testing.T, n *memnet.Net) {
		if got, _ := shoot(t, n, 500); len(got) != 500 || !slices.IsSorted(got) {
			t.Errorf("%d of 500 came, in order %v", len(got), slices.IsSorted(got))
		}
	})
}

// A cut loses what is under way too, in its direction only.
func TestCutOneWayPackets(t *testing.T) {
	bubble(t, memnet.Config{}, func(t *testing.T, n *memnet.Net) {
		a, b := n.Host("10.0.0.1").Transport(7946), n.Host("10.0.0.2").Transport(7946)
		n.SetLink("10.0.0.1", "10.0.0.2", memnet.Link{Latency: time.Second})
		a.WriteTo([]byte("lost"), "10.0.0.2:7946")
		n.CutOneWay("10.0.0.1", "10.0.0.2")
		b.WriteTo([]byte("comes"), "10.0.0.1:7946")
		time.Sleep(time.Minute)
		if len(b.PacketCh()) != 0 || len(a.PacketCh()) != 1 {
			t.Errorf("%d and %d arrived, want 0 and 1", len(b.PacketCh()), len(a.PacketCh()))
		}
	})
}

// memberlist, as it comes, runs on it; so do streams over the transport.
func TestMemberlistRunsOnIt(t *testing.T) {
	bubble(t, memnet.Config{Latency: 20 * time.Millisecond}, func(t *testing.T, n *memnet.Net) {
		var lists []*memberlist.Memberlist
		for _, ip := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
			cfg := memberlist.DefaultLANConfig()
			cfg.Name, cfg.Transport, cfg.LogOutput = ip, n.Host(ip).Transport(7946), io.Discard
			cfg.DNSConfigPath = ""
			l, err := memberlist.Create(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Shutdown()
			lists = append(lists, l)
			if _, err := l.Join([]string{"10.0.0.1:7946"}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		for _, l := range lists {
			if l.NumMembers() != 3 {
				t.Errorf("%s sees %d of 3", l.LocalNode().Name, l.NumMembers())
			}
		}
		n.Partition("10.0.0.3")
		time.Sleep(time.Minute)
		if lists[0].NumMembers() != 2 || lists[2].NumMembers() != 1 {
			t.Errorf("cut apart, they see %d and %d, want 2 and 1", lists[0].NumMembers(), lists[2].NumMembers())
		}
	})
}
