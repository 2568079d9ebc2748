package node

import (
	"context"
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

func (a *admin) viewService(s *mesh.Service) api.Service {
	v := api.Service{App: s.App, PanicThreshold: s.Panic, SoftLimit: s.SoftLimit, HardLimit: s.HardLimit}
	if s.Check != nil {
		v.HealthCheck = s.Check.String()
	}
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

// SetService implements api.POP. The row has to make sense as it would be.
func (a *admin) SetService(ctx context.Context, app string, set api.ServicePatch) (api.Service, error) {
	columns := set.Columns()
	err := a.write(ctx, func(tx *sqlite.Tx) error {
		row, _, err := tx.Get(sqlite.Services, app)
		if err != nil {
			return err
		}
		next := make([]any, len(sqlite.Services.Columns))
		copy(next, row)
		next[0] = app
		for i, c := range sqlite.Services.Columns {
			if v, ok := columns[c]; ok {
				next[i] = v
			}
		}
		if _, err := mesh.ParseService(next); err != nil {
			return err
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
