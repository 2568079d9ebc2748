package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/mesh/feed"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

const (
	// mostWatchers bounds what they cost: a socket's buffer and a goroutine each.
	mostWatchers = 100
	// eventsAtOnce is how many are written together.
	eventsAtOnce = 64
)

// watches tells those who watch this POP what changes. It is told of a new
// routing picture, of verdicts and of members, and finds out what is otherwise.
type watches struct {
	pictured sync.Mutex     // one picture at a time
	before   *mesh.Snapshot // the last one; guarded by pictured

	mu      sync.Mutex
	log     *feed.Log
	changed chan struct{} // closed, and made anew, with every change
	over    string        // why there is no watching any more
}

func newWatches(node string, incarnation uint64) *watches {
	return &watches{log: feed.NewLog(node, incarnation), changed: make(chan struct{}), before: &mesh.Snapshot{}}
}

// update has do change the log, which says whether it did, and wakes who waits.
func (w *watches) update(do func(*feed.Log) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if do(w.log) {
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

// picture takes over what is otherwise in a new snapshot, and says which
// backends came or have another app now.
func (w *watches) picture(snap *mesh.Snapshot, now time.Time) (moved []string) {
	w.pictured.Lock()
	defer w.pictured.Unlock()
	var changed []*mesh.Backend
	var gone []string
	before := w.before
	for i, j := 0, 0; i < len(before.Backends) || j < len(snap.Backends); { // both are in the order of ids
		switch {
		case j == len(snap.Backends) || i < len(before.Backends) && before.Backends[i].ID < snap.Backends[j].ID:
			gone = append(gone, before.Backends[i].ID)
			i++
		case i == len(before.Backends) || snap.Backends[j].ID < before.Backends[i].ID:
			changed, moved = append(changed, &snap.Backends[j]), append(moved, snap.Backends[j].ID)
			j++
		default:
			old, b := &before.Backends[i], &snap.Backends[j]
			if !alike(old, b) {
				changed = append(changed, b)
			}
			if old.App != b.App {
				moved = append(moved, b.ID)
			}
			i, j = i+1, j+1
		}
	}
	states := make([][]byte, len(changed)) // made while nobody waits
	for i, b := range changed {
		states[i] = encode(backendState(b))
	}
	services, goneServices := w.services(snap)
	w.before = snap
	w.update(func(l *feed.Log) (news bool) {
		for i, b := range changed {
			news = l.Put(feed.Key{Kind: feed.Backend, Name: b.ID}, b.App, states[i], now) || news
		}
		for _, id := range gone {
			news = l.Delete(feed.Key{Kind: feed.Backend, Name: id}, now) || news
		}
		for app, state := range services {
			news = l.Put(feed.Key{Kind: feed.Service, Name: app}, app, state, now) || news
		}
		for _, app := range goneServices {
			news = l.Delete(feed.Key{Kind: feed.Service, Name: app}, now) || news
		}
		return news
	})
	return moved
}

// services are the states of those that may be otherwise than before.
func (w *watches) services(snap *mesh.Snapshot) (changed map[string][]byte, gone []string) {
	old := make(map[string]*mesh.Service, len(w.before.Services))
	for i := range w.before.Services {
		old[w.before.Services[i].App] = &w.before.Services[i]
	}
	changed = map[string][]byte{}
	for i := range snap.Services {
		s := &snap.Services[i]
		if o := old[s.App]; o == nil || !reflect.DeepEqual(o, s) {
			changed[s.App] = encode(serviceState{Service: serviceRow(s)})
		}
		delete(old, s.App)
	}
	for app := range old {
		gone = append(gone, app)
	}
	return changed, gone
}

// serviceState is a service without what is no part of its row.
type serviceState struct {
	api.Service
	Backends    omitted `json:"backends,omitempty"`
	Up          omitted `json:"up,omitempty"`
	Connections omitted `json:"connections,omitempty"`
	Faults      omitted `json:"faults,omitempty"`
}

type omitted []int

// alike says whether two pictures of a backend surely look the same to a
// watcher. A heartbeat is nothing to see.
func alike(a, b *mesh.Backend) bool {
	x, y := *a, *b
	x.Check, y.Check, x.Registration, y.Registration = nil, nil, nil, nil
	if x != y || (a.Check == nil) != (b.Check == nil) || a.Check != nil && *a.Check != *b.Check {
		return false
	}
	return failing(a) == failing(b)
}

func failing(b *mesh.Backend) string {
	if b.Registration == nil {
		return ""
	}
	return b.Registration.Failing
}

func backendState(b *mesh.Backend) api.BackendState {
	s := api.BackendState{
		ID: b.ID, App: b.App, Region: string(b.Region), Addr: b.Addr.String(), Healthy: b.Healthy,
		Weight: b.Weight, SoftLimit: b.SoftLimit, HardLimit: b.HardLimit, Country: b.Country,
		State: cmp.Or(string(route.Excluded(b, 0)), "up"), Failing: failing(b),
	}
	if b.Check != nil {
		s.HealthCheck = b.Check.String()
	}
	if b.ProxyOut != mesh.ProxyOff {
		s.ProxyProtocol = b.ProxyOut.String()
	}
	return s
}

// health takes over what checks say; of a backend that nobody checks it is gone.
func (w *watches) health(states []api.HealthState, now time.Time) {
	w.update(func(l *feed.Log) (news bool) {
		for _, s := range states {
			k := feed.Key{Kind: feed.Health, Name: s.ID}
			if len(s.Checks) == 0 {
				news = l.Delete(k, now) || news
			} else {
				news = l.Put(k, s.App, encode(s), now) || news
			}
		}
		return news
	})
}

// members takes over who is there.
func (w *watches) members(all []api.Member, now time.Time) {
	w.update(func(l *feed.Log) (news bool) {
		there := map[string]bool{}
		for _, m := range all {
			there[m.Name] = true
			state := encode(api.MemberState{Name: m.Name, Region: m.Region, Addr: m.Addr, Status: m.Status, Tags: m.Tags})
			news = l.Put(feed.Key{Kind: feed.Member, Name: m.Name}, "", state, now) || news
		}
		for _, name := range l.Names(feed.Member) {
			if !there[name] {
				news = l.Delete(feed.Key{Kind: feed.Member, Name: name}, now) || news
			}
		}
		return news
	})
}

// end has all streams end with this reason.
func (w *watches) end(why string) {
	w.update(func(*feed.Log) bool {
		first := w.over == ""
		if first {
			w.over = why
		}
		return first
	})
}

// watchers is how many there are.
func (w *watches) watchers() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Readers()
}

// Watch implements api.Watches.
func (w *watches) Watch(from string, f api.WatchFilter) (api.Stream, error) {
	filter := feed.Filter{App: f.App}
	for _, kind := range f.Kinds {
		if !slices.Contains(feed.Kinds, feed.Kind(kind)) {
			return nil, &mesh.FieldError{Field: "kind", Message: fmt.Sprintf("%q is no kind; there are backend, service, health and member", kind)}
		}
		filter.Kinds = append(filter.Kinds, feed.Kind(kind))
	}
	var id *feed.ID
	if from != "" && from != "now" {
		parsed, err := feed.ParseID(from)
		if err != nil {
			return nil, &mesh.FieldError{Field: "from", Message: err.Error()}
		}
		id = &parsed
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over != "" {
		return nil, api.Unavailable(w.over + ": watch another POP, or come back")
	}
	if w.log.Readers() >= mostWatchers {
		return nil, api.Unavailable(fmt.Sprintf("%d watchers are here already, and no more fit: end one, or watch another POP", mostWatchers))
	}
	s := &stream{watches: w}
	if from == "now" {
		s.reader = w.log.OpenNow(filter)
	} else {
		s.reader = w.log.Open(id, filter)
	}
	return s, nil
}

// stream is one watcher's way through the log.
type stream struct {
	*watches
	reader *feed.Reader
	ended  bool
}

// Next implements api.Stream.
func (s *stream) Next(ctx context.Context) ([]api.Event, error) {
	if s.ended {
		return nil, io.EOF
	}
	for {
		s.mu.Lock()
		events, over, changed := s.log.Next(s.reader, eventsAtOnce), s.over, s.changed
		at := s.log.At(s.reader).String()
		s.mu.Unlock()
		if len(events) > 0 {
			return views(events), nil
		}
		if over != "" {
			s.ended = true
			return []api.Event{{ID: at, Type: "end", Reason: over}}, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}

func views(events []feed.Event) []api.Event {
	out := make([]api.Event, len(events))
	for i, e := range events {
		out[i] = api.Event{ID: e.ID.String(), Type: string(e.Type), Kind: string(e.Kind), Key: e.Name, State: e.State, Missed: e.Missed, Reason: e.Reason}
	}
	return out
}

// At implements api.Stream.
func (s *stream) At() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.At(s.reader).String()
}

// Close implements api.Stream.
func (s *stream) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.Close(s.reader)
}

// encode is a state as JSON. What states are made of always has one.
func encode(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		return []byte("null")
	}
	return body
}
