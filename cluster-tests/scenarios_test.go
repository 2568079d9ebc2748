package clustertests

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestScenarios plays testdata/scenarios/*.txt: as processes on loopback, and
// where EDGEPROXY_TEST says so in network namespaces (netns) and in containers
// (lab). The same scenarios everywhere; one that needs a fault which cannot be
// played is skipped there, and says why.
func TestScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/scenarios/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	t.Run("loopback", func(t *testing.T) {
		t.Parallel()
		playAll(t, files, true, func(t testing.TB, seed uint64, needs []string) substrate {
			return newLoopback(t, seed, slices.Contains(needs, "disk"))
		})
	})
	for _, kind := range []string{"netns", "lab"} {
		if wanted(kind) {
			t.Run(kind, func(t *testing.T) { playOn(t, kind, files) })
		}
	}
}

func playAll(t *testing.T, files []string, beside bool, on func(t testing.TB, seed uint64, needs []string) substrate) {
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(strings.TrimSuffix(name, ".txt"), func(t *testing.T) {
			if beside {
				t.Parallel()
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			steps, err := parseScript(string(text))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			seed := seedOf(t)
			newStage(t, on(t, seed, needsOf(steps)), seed).play(name, steps)
		})
	}
}

// needsOf are the faults that a scenario says it needs.
func needsOf(steps []step) (faults []string) {
	for _, s := range steps {
		if s.words[0] == "needs" {
			faults = append(faults, s.words[1:]...)
		}
	}
	return faults
}
