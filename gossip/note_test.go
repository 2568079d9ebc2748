package gossip

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

// TestNotes: what one POP tells another alone arrives there and nowhere else,
// the latest of each key whatever came before it; one that makes no sense is
// counted, and the stream goes on.
func TestNotes(t *testing.T) {
	var mu sync.Mutex
	heard := map[string]map[string]string{}
	bubble(t, memnet.Config{Latency: 10 * time.Millisecond}, "a b c", func(c *Config) {
		node := c.Node
		heard[node] = map[string]string{}
		c.TookNote = func(peer string, n Note) error {
			mu.Lock()
			defer mu.Unlock()
			if string(n.Body) == "bad" {
				return errors.New("makes no sense")
			}
			heard[node][peer+" "+n.Key] = string(n.Body)
			return nil
		}
	}, func(t *testing.T, l *lab) {
		l.startAll()
		a := l.pops["a"].mesh
		for i := range 1000 {
			for key := range 200 {
				a.SendNote("b", Note{Key: fmt.Sprint(key), Body: fmt.Appendf(nil, "%d.%d", key, i)})
			}
		}
		a.SendNote("nobody", Note{Key: "0"})
		a.SendNote("b", Note{Key: "large", Body: make([]byte, MaxNoteBody+1)})
		l.within(5*time.Second, "heard", func() bool {
			mu.Lock()
			defer mu.Unlock()
			for key := range 200 {
				if heard["b"][fmt.Sprintf("a %d", key)] != fmt.Sprintf("%d.999", key) {
					return false
				}
			}
			return len(heard["b"]) == 200 && len(heard["c"]) == 0
		})
		a.SendNote("b", Note{Key: "k", Body: []byte("bad")})
		l.within(5*time.Second, "refused", func() bool { return l.pops["b"].mesh.Stats().NotesRefused == 1 })
		if n := l.connected(); n != 6 {
			t.Errorf("%d streams of 6 are left", n)
		}
		a.SendNote("b", Note{Key: "k", Body: []byte("good")})
		l.within(5*time.Second, "heard again", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return heard["b"]["a k"] == "good"
		})
	})
}
