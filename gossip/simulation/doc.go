// Package simulation is tests only: whole POPs, with membership, record
// streams, cluster keys and pins, against each other in virtual time.
//
//	go test ./gossip/simulation                        # minutes of a mesh's life in seconds
//	go test ./gossip/simulation -run Partition -v      # with the figures
//	go test ./gossip/simulation -run Cold -seed 7 -v -mesh-log
//
// A POP is put together as package node does it; only the sockets are memnet's
// and routing.db is a crdt.Replica with a quarantine. The seed decides about
// the network, the writes and the faults. It does not bring a run back to the
// packet: serf and memberlist draw numbers of their own, and which goroutine
// sends first is the scheduler's. So the bounds are those of many runs.
//
// What it does not do: no SQLite, no real socket, no routing, no collection
// of deletes; package node and cluster-tests are for those.
package simulation
