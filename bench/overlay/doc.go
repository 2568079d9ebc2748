// Command overlay measures the mesh's WireGuard, in each of its modes, beside
// bare wireguard-go and the library's own network stack: what one TCP stream
// carries, the CPU time that a gigabyte takes, and what a round trip costs more
// than without WireGuard.
//
//	go run ./bench/overlay                                  # as root: about three minutes
//	go run ./bench/overlay -modes library,tun -rounds 3     # some
//	go run ./bench/overlay -up -streams 4 -json > overlay.json
//
// Each end is a process in a network namespace of its own, this binary again; the
// two are joined by a pair of virtual interfaces. The modes take turns, each with
// fresh processes, because only figures of the same minute can be compared.
//
// Invariants: the namespaces, which carry this process's number in their names,
// and all processes are gone when it ends, also when it is interrupted; of one
// that is killed the namespaces stay. Nothing outside of them is touched.
//
// It measures no topology, no loss, and no real network card.
package main
