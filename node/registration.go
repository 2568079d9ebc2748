package node

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// Register implements api.Registry.
func (n *Node) Register(ctx context.Context, set api.Registration) (api.Backend, error) {
	m, err := n.part()
	if err != nil {
		return api.Backend{}, err
	}
	if err := m.registry.register(ctx, &n.admin, set); err != nil {
		return api.Backend{}, err
	}
	return n.Backend(ctx, *set.ID)
}

// notYet says why a backend that is not registered here may be elsewhere; nil:
// it is not. A row made now would be the later one, and with its defaults undo
// what an operator said of it.
func (m *replication) notYet() error {
	if waiting := m.waiting(); len(waiting) > 0 {
		return fmt.Errorf("%w: not complete yet, %s; ask another POP", api.ErrUnavailable, waiting[0])
	}
	if m.empty && m.untimed() {
		return fmt.Errorf("%w: not complete yet, this POP has never heard of another one, and waits for those that it is to join; ask another POP", api.ErrUnavailable)
	}
	return nil
}

// register writes a registration. Of a backend that is there only what is given
// changes; healthy, deleted and draining are the operator's and never given.
func (r *registry) register(ctx context.Context, a *admin, set api.Registration) error {
	columns, options, err := set.Columns()
	if err != nil {
		return err
	}
	if set.ID == nil {
		return &mesh.FieldError{Field: "id", Message: "is missing; name the backend"}
	}
	id := *set.ID
	now := beat{at: r.now(), failing: set.Failing}
	err = a.write(ctx, func(tx *sqlite.Tx) error {
		row, there, err := tx.Get(sqlite.Backends, id)
		if err != nil {
			return err
		}
		_, registered, err := tx.Get(sqlite.Registrations, id)
		if err != nil {
			return err
		}
		if !registered { // as far as this POP knows
			if err := r.m.notYet(); err != nil {
				return err
			}
		}
		registration := r.columns(now)
		switch {
		case there && !registered:
			return fmt.Errorf("%w: %s is static, as an operator wrote it: choose another id, or remove it first (edgeproxy backend remove)", api.ErrExists, id)
		case !there:
			if err := newID(id); err != nil {
				return err
			}
			service, err := serviceOf(tx, columns["app"])
			if err != nil {
				return err
			}
			columns, options = api.NewBackend(columns, options, service)
			row, registration["registered_ms"] = make([]any, len(sqlite.Backends.Columns)), now.at.UnixMilli()
		}
		b, err := parseRow(id, row, columns, options)
		if err != nil {
			return err
		}
		if !there && set.App == nil {
			return &mesh.FieldError{Field: "app", Message: "is missing; name the app that the backend serves, \"\" for one of POPs that serve every backend"}
		}
		if why := a.loops.refusal(a.router.Snapshot().Services, b.Addr); why != "" {
			return &mesh.FieldError{Field: "ip", Message: why}
		}
		if err := putBackend(tx, id, columns, options); err != nil {
			return err
		}
		return tx.Put(sqlite.Registrations, id, registration)
	})
	if err != nil {
		return err
	}
	r.count.registrations.Add(1)
	r.mu.Lock()
	if old, ok := r.beats[id]; !ok || !old.at.After(now.at) {
		r.beats[id] = now
	}
	r.mu.Unlock()
	if r.m.picture.revive(id) {
		return r.show(ctx)
	}
	return nil
}

// Unregister implements api.Registry.
func (n *Node) Unregister(ctx context.Context, id string, at netip.AddrPort) error {
	return n.write(ctx, func(tx *sqlite.Tx) error {
		row, there, err := tx.Get(sqlite.Backends, id)
		if err != nil {
			return err
		}
		_, registered, err := tx.Get(sqlite.Registrations, id)
		switch {
		case err != nil:
			return err
		case !there:
			return api.NotFound("backend", id)
		case !registered:
			return fmt.Errorf("%w: %s is static, as an operator wrote it", api.ErrConflict, id)
		}
		if b, err := mesh.ParseBackend(row); at.IsValid() && (err != nil || b.Addr != netip.AddrPortFrom(at.Addr().Unmap(), at.Port())) { // as rows have it
			return fmt.Errorf("%w: %s is registered at another address, %s", api.ErrConflict, id, b.Addr)
		}
		return unregister(tx, id)
	})
}

// heardOf is the last heartbeat that is known here of a registered backend.
func (r *registry) heardOf(b *mesh.Backend) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return later(b.Registration.Heartbeat, r.beats[b.ID].at)
}

// viewRegistration adds what is known of a registered backend.
func (a *admin) viewRegistration(v *api.Backend, b *mesh.Backend) {
	if b.Registration == nil {
		return
	}
	now, heard := time.Now(), b.Registration.Heartbeat
	if m := a.live.Load().mesh; m != nil {
		now, heard = m.registry.now(), m.registry.heardOf(b)
	}
	v.TTL = int64(b.Registration.TTL / time.Second)
	v.LastHeartbeat = secondsSince(heard, now)
	v.Registered = secondsSince(b.Registration.Registered, now)
}

// secondsSince is nil where there was no such moment.
func secondsSince(at, now time.Time) *int64 {
	if at.UnixMilli() == 0 {
		return nil
	}
	return new(int64(max(0, now.Sub(at)) / time.Second))
}

// whyLapsed says in one line why a registered backend is out of routing.
func (a *admin) whyLapsed(why route.Exclusion, b *mesh.Backend) string {
	switch {
	case b == nil || b.Registration == nil:
	case why == route.Failing:
		return "its agent says: " + b.Registration.Failing
	case why == route.Expired:
		now := time.Now()
		if m := a.live.Load().mesh; m != nil {
			now = m.registry.now()
		}
		return whyExpired(b.Registration, now)
	}
	return ""
}

// whyExpired says what has been heard of a backend that has expired; rows that
// somebody wrote by hand may say anything.
func whyExpired(r *mesh.Registration, now time.Time) string {
	var text string
	switch {
	case r.Heartbeat.UnixMilli() == 0:
		text = "no heartbeat was ever heard"
	case r.Heartbeat.After(now):
		text = fmt.Sprintf("its last heartbeat is dated %s in the future, and none was heard since this POP has seen that", age(r.Heartbeat.Sub(now)))
	default:
		text = "no heartbeat for " + age(r.Age(now))
	}
	text += fmt.Sprintf(" (its TTL is %s)", r.TTL)
	if r.POP != "" && r.Heartbeat.UnixMilli() != 0 {
		text += ", the last was heard by " + r.POP
	}
	return text
}
