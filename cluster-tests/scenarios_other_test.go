//go:build !linux

package clustertests

import "testing"

func playOn(t *testing.T, kind string, _ []string) {
	t.Fatalf("EDGEPROXY_TEST=%s needs Linux", kind)
}

func torment(t testing.TB, seed uint64) substrate { return newLoopback(t, seed, false) }
