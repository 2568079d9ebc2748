package clustertests

import (
	"strings"
	"testing"
)

// TestMistakesInScenarios: each is a sentence that says what to write instead.
func TestMistakesInScenarios(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, 1)
	for _, tc := range []struct {
		line string
		mesh bool
		want string
	}{
		{"bananas", false, "unknown word; known are within, ! and alive, backend, backends"},
		{"cut sa from us", false, "start comes first"},
		{"start", false, "usage: start N; POPs sa us eu"},
		{"start six", false, "want 1 to 5"},
		{"needs luck", false, `unknown fault "luck"`},
		{"within 10s", true, "within what time what?"},
		{"within ever equal", true, "invalid duration"},
		{"!", true, "! what?"},
		{"kill sa", true, `no POP "sa"`},
		{"cut sa us eu", true, "want POPs, from or to, and POPs"},
		{"lose half all from all", true, "want 0 to 100"},
		{"writes 10", true, "writing comes first"},
		{"backend us-node-1 down", true, "want up or down, and one of"},
		{"served", true, "serving comes first"},
	} {
		if s.mesh = nil; tc.mesh {
			s.mesh = &mesh{}
		}
		steps, err := parseScript(tc.line)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.do(steps[0].words); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.line, err, tc.want)
		}
	}
}
