package node

import (
	"maps"
	"testing"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// TestAgreement: deletes are forgotten when all is here that anybody had when
// they were confirmed: not before, and not for ever waiting for what nobody has.
func TestAgreement(t *testing.T) {
	x, y := crdt.Origin{Node: "x", Epoch: 1}, crdt.Origin{Node: "y", Epoch: 1}
	heads := func(atX, atY uint64) crdt.Heads { return crdt.Heads{x: atX, y: atY} }
	type check struct{ confirmed, known, own, forget crdt.Heads }
	for name, checks := range map[string][]check{
		"one check later": {
			{heads(3, 6), heads(3, 6), heads(3, 6), nil},
			{heads(4, 7), heads(4, 7), heads(4, 7), heads(3, 6)},
			{heads(4, 7), heads(4, 7), heads(4, 7), heads(4, 7)},
		},
		"what somebody had is not here yet": {
			{heads(3, 6), heads(4, 6), heads(3, 6), nil},
			{heads(3, 6), heads(4, 6), heads(3, 6), nil},
			{heads(4, 9), heads(4, 9), heads(4, 9), heads(3, 6)},
		},
		"somebody has less than before": {
			{heads(3, 6), heads(3, 6), heads(3, 6), nil},
			{heads(2, 7), heads(3, 7), heads(3, 7), heads(2, 6)},
		},
	} {
		var a agreement
		for i, c := range checks {
			if got := a.next(c.confirmed, c.known, c.own); !maps.Equal(got, c.forget) {
				t.Errorf("%s, check %d: forgets %v, want %v", name, i+1, got, c.forget)
			}
		}
	}
	var a agreement
	for i := range patientRounds + 1 {
		got := a.next(heads(3, 6), heads(1<<60, 6), heads(3, 6))
		if waits := i < patientRounds; waits != (got == nil) {
			t.Errorf("check %d, with a number that nobody has: forgets %v", i+1, got)
		}
	}
}
