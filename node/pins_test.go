package node

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// TestForgottenPOPs: a POP whose row in pop_keys was deleted is forgotten, once;
// not while a table that was replaced is filled again, nor by a key that is no key.
func TestForgottenPOPs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPins(nil, zerolog.Nop())
		both := [][]any{{"us-1", "key", "{}"}, {"eu-1", "key", "{}"}}
		for _, c := range []struct {
			when string
			rows [][]any
			wait time.Duration
			want string
		}{
			{"both are there", both, time.Hour, "[]"},
			{"the table is empty", nil, forgetAfter - time.Second, "[]"},
			{"both are back", both, time.Hour, "[]"},
			{"a key was emptied", [][]any{{"us-1", nil, "{}"}, both[1]}, time.Hour, "[]"},
			{"it is back", both, time.Hour, "[]"},
			{"one was deleted", both[:1], forgetAfter - time.Second, "[]"},
			{"a moment later", both[:1], time.Second, "[eu-1]"},
			{"and later on", both[:1], time.Hour, "[]"},
		} {
			p.read(c.rows)
			time.Sleep(c.wait)
			if got := fmt.Sprint(p.forgotten()); got != c.want {
				t.Errorf("%s: forgotten are %s, want %s", c.when, got, c.want)
			}
		}
	})
}
