//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
)

// end is how one end of a mode has its packets sealed.
type end string

const (
	bare       end = "bare"     // not at all
	external   end = "external" // by the wireguard-go command, on a TUN interface
	library    end = "library"  // by the library of that name on its own TUN interface, in a process of its own
	oursTUN    end = "tun"      // by wg/device in the process that streams, as in edgeproxy; so the following
	oursStack  end = "netstack" // and on a TCP/IP stack of ours
	oursKernel end = "kernel"   // wg/device, which has the kernel do it
	stockStack end = "stock"    // by the library, on its own TCP/IP stack
)

// mode is a way between two POPs.
type mode struct {
	name            string
	client, backend end
	what            string
}

const (
	modeRaw      = "raw"
	modeExternal = "wireguard-go"
	modeLibrary  = "library"
	modeTUN      = "tun"
	modeStock    = "stock"
	modeNetstack = "netstack"
	modeMixed    = "netstack-tun"
	modeKernel   = "kernel"
)

var allModes = []mode{
	{modeRaw, bare, bare, "no WireGuard, MTU 1500"},
	{modeExternal, external, external, "the command, one process at each end"},
	{modeLibrary, library, library, "golang.zx2c4.com/wireguard on its own TUN interface, one process at each end"},
	{modeTUN, oursTUN, oursTUN, "wg/device on a TUN interface"},
	{modeStock, stockStack, stockStack, "golang.zx2c4.com/wireguard/tun/netstack"},
	{modeNetstack, oursStack, oursStack, "wg/device on a stack of its own"},
	{modeMixed, oursStack, oursTUN, "the client's end netstack, the backend's tun"},
	{modeKernel, oursKernel, oursKernel, "wg/device in the kernel"},
}

// goals are of rates, medians of the rounds.
var goals = []struct {
	mode, than string
	least      float64
}{
	{modeTUN, modeExternal, 0.95},
	{modeTUN, modeLibrary, 0.95},
	{modeNetstack, modeStock, 1.5},
}

func modeNames(list []mode) []string {
	var names []string
	for _, m := range list {
		names = append(names, m.name)
	}
	return names
}

// pickModes takes a comma-separated list; the empty one is all.
func pickModes(list string) ([]mode, error) {
	names := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
	if len(names) == 0 {
		return slices.Clone(allModes), nil
	}
	var picked []mode
	for _, name := range names {
		i := slices.IndexFunc(allModes, func(m mode) bool { return m.name == name })
		switch {
		case i < 0:
			return nil, fmt.Errorf("-modes: no mode %q; there are %s", name, strings.Join(modeNames(allModes), ", "))
		case slices.Contains(modeNames(picked), name):
			return nil, fmt.Errorf("-modes: %s twice", name)
		}
		picked = append(picked, allModes[i])
	}
	return picked, nil
}
