package clustertests

import (
	"slices"
	"sync"
	"testing"
)

// sweep removes what interrupted runs have left behind, once.
var sweep = sync.OnceFunc(func() {
	sweepSpaces()
	sweepDisks()
})

// playOn plays scenarios on what needs root. Who asks for it and cannot have it fails.
func playOn(t *testing.T, kind string, files []string) {
	if kind == "lab" {
		l := startLab(t)
		playAll(t, files, false, func(t testing.TB, _ uint64, _ []string) substrate { return newContainers(t, l) })
		t.Run("overlay", l.overlay)
		return
	}
	if err := canSpaces(); err != nil {
		t.Fatal(err)
	}
	sweep()
	t.Parallel()
	playAll(t, files, true, func(t testing.TB, seed uint64, needs []string) substrate {
		return newSpaces(t, seed, slices.Contains(needs, "disk"))
	})
}

// torment is where TestNemesis plays: in namespaces, where somebody asks for them.
func torment(t testing.TB, seed uint64) substrate {
	if !wanted("netns") {
		return newLoopback(t, seed, (&processes{}).refuses("disk") == "")
	}
	if err := canSpaces(); err != nil {
		t.Fatal(err)
	}
	sweep()
	return newSpaces(t, seed, true)
}
