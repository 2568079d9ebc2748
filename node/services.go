package node

import (
	"context"
	"fmt"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// Services implements api.POP.
func (a *admin) Services(context.Context) ([]api.Service, error) {
	snap := a.router.Snapshot()
	all := make([]api.Service, len(snap.Services))
	for i := range snap.Services {
		all[i] = a.viewService(&snap.Services[i])
	}
	return all, nil
}

// viewService is a service with what becomes of its backends here.
func (a *admin) viewService(s *mesh.Service) api.Service {
	v := serviceRow(s)
	snap, now := a.router.Snapshot(), time.Now()
	for i := range snap.Backends {
		b := &snap.Backends[i]
		if b.App != s.App {
			continue
		}
		v.Backends++
		if _, _, why := a.router.Load(b, now); why == route.Included {
			v.Up++
		}
	}
	return v
}

// serviceRow is what the row of a service says.
func serviceRow(s *mesh.Service) api.Service {
	v := api.Service{
		App: s.App, PanicThreshold: s.Panic, SoftLimit: s.SoftLimit, HardLimit: s.HardLimit,
		Listen: orEmpty(s.Listen), Mode: string(s.Mode), SNI: orEmpty(s.SNI), ALPN: orEmpty(s.ALPN), ProxyProtocol: s.ProxyOut.String(),
		ConnectTimeout: s.ConnectTimeout.Milliseconds(), IdleTimeout: int64(s.IdleTimeout / time.Second), MaxConnections: s.MaxConnections,
	}
	if s.Check != nil {
		v.HealthCheck = s.Check.String()
	}
	if s.AffinityTTL != nil {
		v.AffinityTTL = new(int64(*s.AffinityTTL / time.Second))
	}
	return v
}

func orEmpty(s []string) []string { return append([]string{}, s...) }

// Services implements api.POP: with what a running POP knows besides.
func (n *Node) Services(ctx context.Context) ([]api.Service, error) {
	all, err := n.admin.Services(ctx)
	faults, open := n.faults(), n.server.ServiceConnections()
	for i := range all {
		s := &all[i]
		s.Connections = open[s.App]
		for _, f := range faults {
			if f.App == s.App {
				s.Faults = append(s.Faults, f)
			}
		}
	}
	return all, err
}

// SetService implements api.POP.
func (a *admin) SetService(ctx context.Context, app string, set api.ServicePatch) (api.Service, error) {
	return a.setService(ctx, app, set, nil)
}

// SetService implements api.POP: with what a running POP has of its own.
func (n *Node) SetService(ctx context.Context, app string, set api.ServicePatch) (api.Service, error) {
	return n.setService(ctx, app, set, n.listeners.reserved)
}

// setService writes a row that makes sense as it would be, and takes no address
// or name from another: of two rows that want the same the first by app has it,
// and that may be the new one.
func (a *admin) setService(ctx context.Context, app string, set api.ServicePatch, reserved map[string]string) (api.Service, error) {
	columns := set.Columns()
	err := a.write(ctx, func(tx *sqlite.Tx) error {
		row, found, err := tx.Get(sqlite.Services, app)
		if err != nil {
			return err
		}
		if found && set.New {
			return api.Exists("service", app)
		}
		next := make([]any, len(sqlite.Services.Columns))
		copy(next, row)
		next[0] = app
		for i, c := range sqlite.Services.Columns {
			if v, ok := columns[c]; ok {
				next[i] = v
			}
		}
		s, err := mesh.ParseService(next)
		if err != nil {
			return err
		}
		if f := clash(a.router.Snapshot().Services, s, reserved); f != nil {
			return fmt.Errorf("%w: app %s would not be served at %s: %s; choose another address or name, or change the other service first", api.ErrConflict, f.App, f.Listen, f.Error)
		}
		return tx.Put(sqlite.Services, app, columns)
	})
	if err != nil {
		return api.Service{}, err
	}
	s := a.router.Snapshot().Service(app)
	return a.viewService(&s), nil
}

// DeleteService implements api.POP.
func (a *admin) DeleteService(ctx context.Context, app string) error {
	return a.write(ctx, func(tx *sqlite.Tx) error {
		found, err := tx.Delete(sqlite.Services, app)
		if err == nil && !found {
			return api.NotFound("service", app)
		}
		return err
	})
}

// serviceOf is what the row of an app says, as much of it as makes sense.
func serviceOf(tx *sqlite.Tx, app any) (mesh.Service, error) {
	name, _ := app.(string)
	row, found, err := tx.Get(sqlite.Services, name)
	if err != nil || !found {
		return mesh.Service{}, err
	}
	s, _ := mesh.ParseService(row)
	return s, nil
}
