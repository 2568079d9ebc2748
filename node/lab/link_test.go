package lab

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// TestACutIsSilent: nothing passes, nobody is told, and it goes on when healed.
func TestACutIsSilent(t *testing.T) {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, end := context.WithCancel(t.Context())
	defer end()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		t.Skip("the port is another's in UDP")
	}
	defer udp.Close()

	l := newLinks(&running)
	l.own("us", tcp.Addr().String())
	at := l.via(ctx, "sa")(tcp.Addr().String())
	if again := l.via(ctx, "sa")(tcp.Addr().String()); again != at || at == tcp.Addr().String() {
		t.Errorf("relays at %s and %s, want one", at, again)
	}
	near, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := tcp.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	in := bufio.NewReader(far)
	passes := func(text string) {
		t.Helper()
		_ = far.SetReadDeadline(time.Now().Add(mostWait))
		if line, err := in.ReadString('\n'); line != text+"\n" || err != nil {
			t.Errorf("%q, %v: want %q", line, err, text)
		}
	}
	fmt.Fprintln(near, "before")
	passes("before")

	for _, pop := range []string{"sa", "us"} { // either end of the hop
		if !l.cut(pop) || l.cut(pop) || !l.isCut(pop) {
			t.Fatal("cut twice, or not at all")
		}
		fmt.Fprintln(near, "meanwhile")
		datagram, err := net.Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		dropped := l.dropped.Load()
		fmt.Fprint(datagram, "lost")
		if _, err := until(ctx, mostWait, func() bool { return l.dropped.Load() > dropped }); err != nil {
			t.Fatal("the datagram was not dropped")
		}
		_ = far.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if line, err := in.ReadString('\n'); err == nil {
			t.Errorf("%q passed the cut", line)
		}
		if !l.heal(pop) || l.heal(pop) {
			t.Fatal("healed twice, or not at all")
		}
		passes("meanwhile")
		fmt.Fprint(datagram, "after")
		buf := make([]byte, 16)
		_ = udp.SetReadDeadline(time.Now().Add(mostWait))
		if n, _, err := udp.ReadFrom(buf); err != nil || string(buf[:n]) != "after" {
			t.Errorf("datagram %q, %v: want the one after the cut", buf[:n], err)
		}
		datagram.Close()
	}
	_ = near.Close()
	if _, err := in.ReadByte(); err == nil {
		t.Error("the end did not pass")
	}
}
