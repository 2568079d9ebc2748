package rights

import (
	"bytes"
	"reflect"
	"testing"
	"time"
)

func samples() []Message {
	term := Term{N: 3, Life: 1 << 60, Home: "sa-1"}
	entries := map[string]Entry{"sa-1": {Bound: 7, Life: 1 << 60, Voter: 1 << 60}, "us-1": {}}
	return []Message{
		{Claim: &Claim{Backend: "b", Term: term, Life: 9, Seq: 8, Grant: 7, Ack: 6, Held: 5, Want: 4, Urgent: true, Version: 3, Kept: Ledger{Entries: map[string]Entry{}}}},
		{Claim: &Claim{Backend: "b", Term: term, Life: 9, Held: mostRights, Kept: Ledger{Term: term, Version: 2, Entries: entries}, Roster: []string{"us-1", "eu-1"}}},
		{Grant: &Grant{Backend: "b", Term: term, Seq: 1, Life: 9, Number: 2, Rights: 3, Limit: 100, Some: true, Tight: true, Version: 4}},
		{Grant: &Grant{Backend: "b", Term: term, Short: true, Version: 4, Entries: entries}},
	}
}

// TestMessagesComeBack as they were, and cut ones are refused.
func TestMessagesComeBack(t *testing.T) {
	for _, m := range samples() {
		b := m.Append(nil)
		got, err := Decode(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%x came back as %+v, %v", b, got, err)
		}
		for n := range b {
			if _, err := Decode(b[:n]); err == nil {
				t.Errorf("decoded %d of %d bytes", n, len(b))
			}
		}
		if _, err := Decode(append(b, 0)); err == nil {
			t.Error("decoded with a byte too many")
		}
	}
}

// FuzzDecode: whatever comes is refused, or means the same when it is sent on,
// and a POP that takes it goes on.
func FuzzDecode(f *testing.F) {
	for _, m := range samples() {
		f.Add(m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again := m.Append(nil)
		if second, err := Decode(again); err != nil || !bytes.Equal(second.Append(nil), again) {
			t.Fatalf("%x was decoded, its encoding %x not: %v", b, again, err)
		}
		w := newWorld(2, 10)
		w.calm(time.Second)
		w.post(w.nodes[0], w.nodes[0].book.Receive(w.now, "p1", m))
		w.calm(time.Second)
	})
}
