package route

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Key is whose connections stick together: one client address (for IPv6 its
// /64, which is what one household or host has) with one app.
type Key struct {
	App    string
	Client netip.Addr
}

// KeyOf is the affinity key of a client.
func KeyOf(app string, client netip.Addr) Key {
	client = client.Unmap().WithZone("")
	if client.Is6() {
		b := client.As16()
		clear(b[8:])
		client = netip.AddrFrom16(b)
	}
	return Key{App: app, Client: client}
}

// Bindings remember which backend a client had. Implementations are safe for
// concurrent use and do not block: both are called for every connection.
type Bindings interface {
	// Get returns the backend that the key is bound to and that has not expired at now.
	Get(k Key, now time.Time) (backend string, ok bool)
	// Put binds the key, or renews its binding, as of now.
	Put(k Key, backend string, now time.Time)
	// Len is the number of bindings kept.
	Len() int
}

const affinityShards = 64

// Affinity keeps bindings in memory: a TTL counted from the client's last
// connection, checked on read, and a bound on their number. Beyond it, the
// oldest of a few entries looked at makes room. Safe for concurrent use.
type Affinity struct {
	seed   maphash.Seed
	most   int    // per shard
	used   uint64 // shards, fewer than there are where the bound is small
	ttl    atomic.Int64
	apps   atomic.Pointer[map[string]time.Duration] // of those with another
	shards [affinityShards]affinityShard
}

type affinityShard struct {
	mu    sync.Mutex
	bound map[Key]binding
	_     [40]byte // a shard to a cache line of its own
}

type binding struct {
	backend string
	last    int64 // unix ns of the client's last connection
}

// NewAffinity keeps at most `most` bindings (0: 1,048,576), each for ttl since
// the client's last connection. A ttl of 0 keeps none.
func NewAffinity(ttl time.Duration, most int) *Affinity {
	if most <= 0 {
		most = 1 << 20
	}
	used := min(most, affinityShards)
	a := &Affinity{seed: maphash.MakeSeed(), most: most / used, used: uint64(used)}
	a.apps.Store(&map[string]time.Duration{})
	a.SetTTL(ttl)
	return a
}

// SetTTL changes how long bindings last, those that exist included.
func (a *Affinity) SetTTL(ttl time.Duration) { a.ttl.Store(int64(ttl)) }

// SetAppTTLs changes for which apps bindings last otherwise; 0: it keeps none.
func (a *Affinity) SetAppTTLs(ttls map[string]time.Duration) { a.apps.Store(&ttls) }

func (a *Affinity) ttlOf(app string) int64 {
	if apps := *a.apps.Load(); len(apps) > 0 {
		if ttl, ok := apps[app]; ok {
			return int64(ttl)
		}
	}
	return a.ttl.Load()
}

func (a *Affinity) shard(k Key) *affinityShard {
	return &a.shards[maphash.Comparable(a.seed, k)%a.used]
}

// Get implements Bindings.
func (a *Affinity) Get(k Key, now time.Time) (string, bool) {
	ttl := a.ttlOf(k.App)
	if ttl <= 0 {
		return "", false
	}
	s := a.shard(k)
	s.mu.Lock()
	b, ok := s.bound[k]
	s.mu.Unlock()
	if !ok || now.UnixNano()-b.last >= ttl {
		return "", false
	}
	return b.backend, true
}

// Put implements Bindings.
func (a *Affinity) Put(k Key, backend string, now time.Time) {
	if a.ttlOf(k.App) <= 0 {
		return
	}
	s := a.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bound == nil {
		s.bound = make(map[Key]binding)
	}
	if _, renew := s.bound[k]; !renew && len(s.bound) >= a.most {
		s.evictLocked()
	}
	s.bound[k] = binding{backend: backend, last: now.UnixNano()}
}

// evictLocked removes the oldest of eight entries; Go's map iteration starts
// at a random place, which makes them a sample.
func (s *affinityShard) evictLocked() {
	var oldest Key
	var last int64
	looked := 0
	for k, b := range s.bound {
		if looked == 0 || b.last < last {
			oldest, last = k, b.last
		}
		if looked++; looked == 8 {
			break
		}
	}
	delete(s.bound, oldest)
}

// Len implements Bindings. Bindings that have expired count until Sweep.
func (a *Affinity) Len() int {
	n := 0
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		n += len(s.bound)
		s.mu.Unlock()
	}
	return n
}

// Each calls fn for every binding, with the client's last connection. It may
// miss those that come meanwhile. It holds no lock during fn.
func (a *Affinity) Each(fn func(k Key, backend string, last time.Time)) {
	type pair struct {
		Key
		binding
	}
	var some []pair
	for i := range a.shards {
		s := &a.shards[i]
		some = some[:0]
		s.mu.Lock()
		for k, b := range s.bound {
			some = append(some, pair{k, b})
		}
		s.mu.Unlock()
		for _, p := range some {
			fn(p.Key, p.backend, time.Unix(0, p.last))
		}
	}
}

// Sweep removes what has expired at now.
func (a *Affinity) Sweep(now time.Time) {
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		for k, b := range s.bound {
			if now.UnixNano()-b.last >= a.ttlOf(k.App) {
				delete(s.bound, k)
			}
		}
		s.mu.Unlock()
	}
}
