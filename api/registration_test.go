package api

import (
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// A reason comes out of the row as it went in: it would be written at every
// heartbeat otherwise.
func TestReasonsStayAsTheyAre(t *testing.T) {
	for _, text := range []string{"", "disk full", strings.Repeat("x", 119), strings.Repeat("x", 120), strings.Repeat("x", 121), strings.Repeat("é", 100), strings.Repeat("a", 116) + "日本語", " a\n\tb\x00c "} {
		said := PlainReason(text)
		_, r, err := mesh.ParseRegistration([]any{"a", "us", int64(1), int64(1), int64(60), said})
		if err != nil || r.Failing != said || len(said) > mesh.MaxFailing || PlainReason(said) != said {
			t.Errorf("%q is %q, in the row %q (%v)", text, said, r.Failing, err)
		}
	}
	_, r, err := mesh.ParseRegistration([]any{"a", "us", int64(1), int64(1), int64(60), strings.Repeat("x", 1000)})
	if err != nil || len(r.Failing) != mesh.MaxFailing {
		t.Errorf("%d bytes by somebody else, %v", len(r.Failing), err)
	}
}
