//go:build !linux

package clustertests

import "testing"

func playOn(t *testing.T, kind string, _ []string) {
	t.Fatalf("EDGEPROXY_TEST=%s needs Linux", kind)
}
