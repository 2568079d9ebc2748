package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/geo/mmdb"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/edgeproxy/edgeproxy/wg"
	"github.com/rs/zerolog"
)

// admin does what the API and the command line ask for, over a database and a
// router, whether a daemon runs around them or not.
type admin struct {
	live   atomic.Pointer[part]
	router *route.Router
	geo    *mmdb.Resolver
	vigil  *vigil // nil without a daemon
	loops  *loops // likewise
	app    string // that the default listener serves; empty: every backend
}

// Backends implements api.POP.
func (a *admin) Backends(context.Context) (api.BackendList, error) {
	snap := a.router.Snapshot()
	l := api.BackendList{Backends: make([]api.Backend, len(snap.Backends)), Total: len(snap.Backends), Problems: snap.Problems}
	for i := range snap.Backends {
		l.Backends[i] = a.view(&snap.Backends[i])
	}
	return l, nil
}

// Backend implements api.POP.
func (a *admin) Backend(_ context.Context, id string) (api.Backend, error) {
	snap := a.router.Snapshot()
	if b, ok := snap.Backend(id); ok {
		return a.view(b), nil
	}
	b, why, ok := snap.LeftOut(id)
	if !ok {
		return api.Backend{}, api.NotFound("backend", id)
	}
	v := a.view(b)
	if b.Routable() { // else somebody says that it is not to be reached
		v.State = string(route.Loop)
	}
	v.Why = why
	return v, nil
}

func (a *admin) view(b *mesh.Backend) api.Backend {
	now := time.Now()
	own, n, why := a.router.Load(b, now)
	v := api.Backend{
		ID: b.ID, App: b.App, Region: string(b.Region), Addr: b.Addr.String(), IP: b.Addr.Addr().String(), Port: b.Addr.Port(), Healthy: b.Healthy,
		Weight: b.Weight, SoftLimit: b.SoftLimit, HardLimit: b.HardLimit,
		Connections: n, Own: own, State: cmp.Or(string(why), "up"), Country: b.Country, Checks: a.vigil.verdicts(b.ID),
	}
	if b.Check != nil {
		v.HealthCheck = b.Check.String()
	}
	if b.ProxyOut != mesh.ProxyOff {
		v.ProxyProtocol = b.ProxyOut.String()
	}
	until := a.router.EjectedUntil(b.ID)
	if why == route.Ejected {
		v.EjectedUntil = until.UTC()
	}
	v.Why = cmp.Or(whyOut(why, v.Checks, until, now), a.whyLapsed(why, b))
	a.viewRegistration(&v, b)
	return v
}

// CreateBackend implements api.POP. A row that is marked deleted makes way.
func (a *admin) CreateBackend(ctx context.Context, set api.Patch) (api.Backend, error) {
	if set.ID == nil {
		return api.Backend{}, &mesh.FieldError{Field: "id", Message: "is missing; name the backend"}
	}
	if err := newID(*set.ID); err != nil {
		return api.Backend{}, err
	}
	return a.put(ctx, *set.ID, set, true, func(old *mesh.Backend) error {
		if old != nil && !old.Deleted {
			return fmt.Errorf("%w: %s: change it, or remove it first", api.ErrExists, *set.ID)
		}
		return nil
	})
}

// UpdateBackend implements api.POP.
func (a *admin) UpdateBackend(ctx context.Context, id string, set api.Patch) (api.Backend, error) {
	return a.put(ctx, id, set, false, func(old *mesh.Backend) error {
		if old == nil {
			return api.NotFound("backend", id)
		}
		return nil
	})
}

// put writes the fields that are set, if allowed says so of the row that is
// there (nil: none) and the row makes sense afterwards.
func (a *admin) put(ctx context.Context, id string, set api.Patch, create bool, allowed func(old *mesh.Backend) error) (api.Backend, error) {
	columns, options, err := set.Columns()
	if err != nil {
		return api.Backend{}, err
	}
	err = a.write(ctx, func(tx *sqlite.Tx) error {
		row, found, err := tx.Get(sqlite.Backends, id)
		if err != nil {
			return err
		}
		var old *mesh.Backend
		if found {
			b, _ := mesh.ParseBackend(row) // a broken row may be mended field by field
			old = &b
		}
		if err := allowed(old); err != nil {
			return err
		}
		if create {
			service, err := serviceOf(tx, columns["app"])
			if err != nil {
				return err
			}
			columns, options = api.NewBackend(columns, options, service)
			row = make([]any, len(sqlite.Backends.Columns))
		}
		next, err := parseRow(id, row, columns, options)
		if err != nil {
			return err
		}
		if create || next.Addr != old.Addr {
			if why := a.loops.listener(a.router.Snapshot().Services, next.Addr); why != "" {
				return &mesh.FieldError{Field: "addr", Message: why}
			}
		}
		if create { // what an older one of the id left behind would make it expire
			if _, err := tx.Delete(sqlite.Registrations, id); err != nil {
				return err
			}
		}
		return putBackend(tx, id, columns, options)
	})
	if err != nil {
		return api.Backend{}, err
	}
	if set.Healthy != nil && *set.Healthy {
		a.router.Readmit(id) // by the operator's word
	}
	return a.Backend(ctx, id)
}

// putBackend writes what is given of a backend.
func putBackend(tx *sqlite.Tx, id string, columns, options map[string]any) error {
	if err := tx.Put(sqlite.Backends, id, columns); err != nil || len(options) == 0 {
		return err
	}
	return tx.Put(sqlite.BackendOptions, id, options)
}

// parseRow validates the row as it would be.
func parseRow(id string, row []any, columns, options map[string]any) (mesh.Backend, error) {
	next := append([]any{}, row...)
	next[0] = id
	for i, c := range sqlite.Backends.Columns {
		if v, ok := columns[c]; ok {
			next[i] = v
		}
	}
	b, err := mesh.ParseBackend(next)
	if err != nil {
		return b, err
	}
	if id == "." || id == ".." {
		return b, &mesh.FieldError{Field: "id", Message: "cannot be a path's . or ..: the API could not name it"}
	}
	return b, b.ApplyOptions([]any{id, options["country"], options["draining"], options["health_check"], options["proxy_protocol"]})
}

// newID refuses names for new backends that nobody could tell from others, or
// write again. Rows that have them, by SQL, can still be changed and removed.
func newID(id string) error {
	switch {
	case id != strings.TrimSpace(id):
		return &mesh.FieldError{Field: "id", Message: fmt.Sprintf("%.80q begins or ends with white space", id)}
	case strings.ContainsRune(id, utf8.RuneError):
		return &mesh.FieldError{Field: "id", Message: fmt.Sprintf("%.80q holds U+FFFD, in the place of what was no character", id)}
	}
	return nil
}

// DeleteBackend implements api.POP.
func (a *admin) DeleteBackend(ctx context.Context, id string) error {
	return a.write(ctx, func(tx *sqlite.Tx) error {
		_, found, err := tx.Get(sqlite.Backends, id)
		if err == nil && !found {
			return api.NotFound("backend", id)
		}
		if err != nil {
			return err
		}
		return unregister(tx, id)
	})
}

// write runs fn in a transaction and has what it wrote in the routing picture
// when it returns: whoever is told "done" finds it done.
func (a *admin) write(ctx context.Context, fn func(tx *sqlite.Tx) error) error {
	err := a.store().Write(ctx, fn)
	if errors.Is(err, api.ErrNotFound) || errors.Is(err, api.ErrExists) || errors.Is(err, api.ErrConflict) || errors.Is(err, api.ErrUnavailable) || errors.As(err, new(*mesh.FieldError)) {
		return err
	}
	if err == nil {
		// What is committed is published, also where whoever asked has gone.
		err = a.picture().catchUp(context.WithoutCancel(ctx))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", api.ErrUnavailable, err)
	}
	return nil
}

// Explain implements api.POP.
func (a *admin) Explain(_ context.Context, client netip.Addr, app string) (route.Explanation, error) {
	client = client.Unmap()
	q := route.Query{App: cmp.Or(app, a.app), Client: client, Place: a.geo.Lookup(client)}
	now := time.Now()
	e := a.router.Explain(q, now, rand.Uint64())
	for i := range e.Candidates {
		if c := &e.Candidates[i]; c.Excluded != route.Included {
			b, _ := a.router.Snapshot().Backend(c.ID)
			c.Why = cmp.Or(whyOut(c.Excluded, a.vigil.verdicts(c.ID), a.router.EjectedUntil(c.ID), now), a.whyLapsed(c.Excluded, b))
		}
	}
	return e, nil
}

// status is what is known without a daemon.
func (a *admin) status() api.Status {
	snap, info := a.router.Snapshot(), a.geo.Info()
	st := api.Status{
		Node: snap.Self.Node, Region: string(snap.Self.Region),
		Reasons: []string{}, Problems: append([]mesh.Problem{}, snap.Problems...), Faults: []mesh.Fault{},
		Backends:   api.BackendCounts{Total: len(snap.Backends)},
		Geo:        api.GeoStatus{Source: info.Source, Built: info.Built},
		DB:         a.store().Path(),
		MeshStatus: api.MeshStatus{Members: []api.Member{}, Peers: []api.PeerStatus{}},
	}
	for i := range snap.Backends {
		b := &snap.Backends[i]
		if _, _, why := a.router.Load(b, time.Now()); why == route.Included {
			st.Backends.Up++
		}
	}
	countRegistered(snap, &st.Backends)
	return st
}

// Status implements api.POP.
func (n *Node) Status(ctx context.Context) (api.Status, error) {
	st := n.status()
	st.Version, st.Listen, st.API, st.DNS, st.Started = n.opts.Version, n.addrs.Listen, n.addrs.API, n.addrs.DNS, n.started.UTC()
	st.Reasons = append(st.Reasons, n.notReady()...)
	st.Ready = len(st.Reasons) == 0
	st.Connections = n.server.Active() + n.elders.active()
	st.PID = os.Getpid()
	st.Bindings = n.router.Bindings()
	st.Faults, st.Certs = n.faults(), n.certificates()
	if n.mesh() == nil {
		return st, nil
	}
	var err error
	if st.MeshStatus, err = n.mesh().status(ctx); err != nil {
		st.Reasons = append(st.Reasons, "records: "+err.Error())
	}
	st.Overlay = n.overlay.summary(time.Now())
	return st, nil
}

// File is a routing database without a daemon, for the command line.
type File struct{ admin }

// Status implements api.POP.
func (f *File) Status(context.Context) (api.Status, error) {
	st := f.status()
	st.Reasons = append(st.Reasons, "no daemon: this is what the file holds")
	return st, nil
}

// OpenFile opens the database and country file that cfg names.
func OpenFile(ctx context.Context, cfg *config.Config) (*File, error) {
	table, err := countryTable(cfg)
	if err != nil {
		return nil, err
	}
	f := &File{admin: admin{app: cfg.App}}
	if f.geo, err = mmdb.New(mmdb.Config{Path: cfg.GeoIPPath}, table); err != nil {
		return nil, err
	}
	store, err := sqlite.Open(ctx, cfg.DBPath)
	if err != nil {
		return nil, err
	}
	f.router = route.NewRouter(route.NewAffinity(0, 0))
	p := &picture{poked: make(chan struct{}, 1), store: store, self: self(cfg, cfg.NodeID), positions: positions(cfg), publish: f.router.Update, log: zerolog.Nop()}
	if err := p.refresh(ctx); err != nil {
		store.Close()
		return nil, err
	}
	f.live.Store(&part{store: store, picture: p})
	return f, nil
}

// Close closes the database.
func (f *File) Close() error { return f.store().Close() }

// Finding is one thing that Check found wrong.
type Finding struct {
	Where   string // file, or table and row
	Problem string
}

// Check opens what cfg names and reports everything that is wrong with it.
// It writes nothing; a database that does not exist is a finding.
func Check(ctx context.Context, cfg *config.Config) []Finding {
	var found []Finding
	add := func(where string, err error) {
		if err != nil {
			found = append(found, Finding{where, err.Error()})
		}
	}
	table, err := countryTable(cfg)
	add("configuration", err)
	if err != nil {
		table, _ = geo.NewTable(nil)
	}
	_, err = mmdb.New(mmdb.Config{Path: cfg.GeoIPPath}, table)
	add("country database", err)

	img, err := sqlite.Inspect(ctx, cfg.DBPath)
	if err != nil {
		add("routing database", err)
		return found
	}
	snap := mesh.NewSnapshot(self(cfg, ""), rowsOf(img), positions(cfg))
	for _, p := range snap.Problems {
		found = append(found, Finding{fmt.Sprintf("%s %q", p.Table, p.ID), p.Field + ": " + p.Message})
	}
	_, faults := planListeners(snap.Services, reserved(Addrs{Listen: cfg.Listen, API: cfg.APIAddr, Gossip: cfg.GossipAddr, Sync: cfg.SyncAddr, DNS: cfg.DNSAddr}))
	for _, f := range faults.list() {
		found = append(found, Finding{fmt.Sprintf("services %q", f.App), f.Listen + ": " + f.Error})
	}
	rows := readOverlay(img.WGPops, img.WGPeers)
	problems := rows.problems
	if networks, err := wg.ParseNetworks(cfg.WGNetworks); err == nil {
		_, more := wg.Settle(rows.pops, rows.devices, networks, wg.Roster{})
		problems = append(problems, more...)
	}
	for _, p := range problems {
		found = append(found, Finding{fmt.Sprintf("overlay %q", p.Name), p.Message})
	}
	return found
}
