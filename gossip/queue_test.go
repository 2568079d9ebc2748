package gossip

import (
	"fmt"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"pgregory.net/rapid"
)

// TestQueueNeverMovesAHeadTooEarly: whatever is written, flushed, overflows
// and is asked for, the peer has every write below its head.
func TestQueueNeverMovesAHeadTooEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		self := crdt.Origin{Node: "a", Epoch: 1}
		here, there := crdt.NewReplica(self), crdt.NewReplica(crdt.Origin{Node: "b", Epoch: 1})
		q := queue{limit: rapid.IntRange(1, 5).Draw(t, "limit")}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"write", "write", "write", "flush", "pull", "told"}).Draw(t, "step") {
			case "write":
				q.put(here.Write(backend(fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "row"))), crdt.At(int64(i)), map[string]crdt.Value{"n": crdt.IntValue(int64(i))}))
			case "flush":
				for _, part := range q.take().Split(50) {
					there.Apply(part)
				}
			case "pull":
				q.resume(nil)
				for more := true; more; {
					var d crdt.Delta
					d, more = here.Since(there.Heads(), 50)
					there.Apply(d)
				}
			case "told":
				q.resume(there.Heads())
			}
			if n := q.len(); n > q.limit {
				t.Fatalf("%d rows in a queue of %d", n, q.limit)
			}
			head := there.Heads()[self]
			for _, rec := range here.Records() {
				if s := rec.Newest(); s.Seq <= head {
					if got, ok := there.Get(rec.Key); !ok || !got.Equal(rec) {
						t.Fatalf("the peer's head is %d, and it lacks %v", head, rec)
					}
				}
			}
		}
	})
}

func TestQueueKeepsOneStatePerRow(t *testing.T) {
	here := crdt.NewReplica(crdt.Origin{Node: "a", Epoch: 1})
	q := queue{limit: 10}
	for i := range 1000 {
		if q.put(here.Write(backend(fmt.Sprint(i%3)), crdt.At(int64(i)), map[string]crdt.Value{"n": crdt.IntValue(int64(i))})) {
			t.Fatal("overflow")
		}
	}
	if d := q.take(); len(d.Records) != 3 || len(d.Ranges) != 1 || d.Ranges[0].To != 1000 || !q.empty() {
		t.Errorf("%d records, ranges %v", len(d.Records), d.Ranges)
	}
}

func TestLag(t *testing.T) {
	o := crdt.Origin{Node: "a", Epoch: 1}
	start := time.Unix(0, 0)
	var m marks
	for i := range 10000 {
		m.add(crdt.Range{Origin: o, From: uint64(i), To: uint64(i + 1)}, start.Add(time.Duration(i)*time.Second))
	}
	now := start.Add(10000 * time.Second)
	if len(m.list) > maxMarks {
		t.Errorf("%d marks", len(m.list))
	}
	for head, want := range map[uint64]time.Duration{0: 10000 * time.Second, 10000: 0} {
		if got := m.lag(crdt.Heads{o: head}, now); got != want {
			t.Errorf("at %d: %v, want %v", head, got, want)
		}
	}
	if got := m.lag(crdt.Heads{o: 5000}, now); got < 4900*time.Second || got > 5100*time.Second {
		t.Errorf("in the middle: %v", got)
	}
	if m.acknowledged(crdt.Heads{o: 10000}); len(m.list) > 0 || m.lag(nil, now) != 0 {
		t.Error("what all have is still remembered")
	}
}
