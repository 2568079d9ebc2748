package node

import (
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/internal/handover"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// TestElders: what an older generation tells of its connections is counted,
// also where it takes several messages, and by whichever generation reads.
func TestElders(t *testing.T) {
	reader, writer, err := handover.Mailbox()
	if err != nil {
		t.Fatal(err)
	}
	old, err := net.FileConn(writer)
	if err != nil {
		t.Fatal(err)
	}
	writer.Close()
	defer old.Close()
	list := func(backends int, each int64) map[string]int64 {
		counts := map[string]int64{}
		for i := range backends {
			counts[fmt.Sprintf("b%d", i)] = each
		}
		return counts
	}
	expect := func(e *elders, s *route.Slots, want int64) {
		t.Helper()
		var got int64
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			got = 0
			for _, st := range s.Stats() {
				got += st.Connections
			}
			if got == want && e.active() == want {
				return
			}
		}
		t.Fatalf("%d connections counted at the backends, %d in all; want %d", got, e.active(), want)
	}
	var one, two elders
	var slots, later route.Slots
	if err := one.listen([]*os.File{reader}, &slots); err != nil {
		t.Fatal(err)
	}
	sendCounts(old, list(3*countsAtOnce/2, 2), false)
	expect(&one, &slots, 3*countsAtOnce)
	sendCounts(old, list(10, 1), false)
	expect(&one, &slots, 10)
	if _, err := old.Write([]byte("{")); err != nil { // no message
		t.Fatal(err)
	}

	files, err := one.files()
	if err != nil || len(files) != 1 {
		t.Fatalf("%d sockets for the next generation, %v; want 1", len(files), err)
	}
	one.close()
	expect(&one, &slots, 0)
	if _, err := old.Write([]byte(`{"counts":{"b0":1000},"last":true}`)); err != nil { // whose beginning went elsewhere
		t.Fatal(err)
	}
	sendCounts(old, list(20, 1), false)
	if err := two.listen(files, &later); err != nil {
		t.Fatal(err)
	}
	expect(&two, &later, 20)
	sendCounts(old, nil, true)
	expect(&two, &later, 0)
	if files, err := two.files(); err != nil || len(files) != 0 {
		t.Errorf("%d older generations after the last one's end, %v", len(files), err)
	}
	two.close()
}
