package node

import (
	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/prometheus/client_golang/prometheus"
)

var (
	descRegistered    = desc("backends_registered", "Backends that registered themselves.")
	descExpired       = desc("backends_expired", "Registered backends that are out of routing because their heartbeats have ended.")
	descFailing       = desc("backends_failing", "Registered backends that are out of routing because their agents say so.")
	descRegistrations = desc("registrations_total", "Registrations that this POP took.")
	descHeartbeats    = desc("heartbeats_total", "Heartbeats that this POP was sent; unknown: of backends that have to register.", "result")
	descUnregistered  = desc("registrations_deleted_total", "Registered backends that this POP deleted because nothing was heard of them.")
)

// countRegistered adds what there is of registered backends in the snapshot.
func countRegistered(snap *mesh.Snapshot, c *api.BackendCounts) {
	for i := range snap.Backends {
		b := &snap.Backends[i]
		if b.Registration == nil {
			continue
		}
		c.Registered++
		switch {
		case b.Expired:
			c.Expired++
		case b.Failing():
			c.Failing++
		}
	}
}

func (c *collector) registry(gauge, counter func(*prometheus.Desc, float64, ...string)) {
	var n api.BackendCounts
	countRegistered(c.n.router.Snapshot(), &n)
	gauge(descRegistered, float64(n.Registered))
	gauge(descExpired, float64(n.Expired))
	gauge(descFailing, float64(n.Failing))
	counts := &c.n.registered
	counter(descRegistrations, float64(counts.registrations.Load()))
	counter(descHeartbeats, float64(counts.heartbeats.Load()), "ok")
	counter(descHeartbeats, float64(counts.unknown.Load()), "unknown")
	counter(descUnregistered, float64(counts.deleted.Load()))
}
