//go:build !linux

package clustertests

import (
	"errors"
	"testing"
)

// relays need an address for each POP, and loopback has one here: the POPs
// talk directly.
type relays struct{}

func newRelays(testing.TB, *links) *relays { return &relays{} }

func (*relays) add(*pop) error { return nil }

func mountDisk(testing.TB, string) {}

func adoptOrphans() error { return nil }

func (*pop) inherit(testing.TB) error { return errors.New("refused") }
