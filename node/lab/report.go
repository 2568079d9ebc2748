package lab

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
)

// Report is what the lab saw.
type Report struct {
	Seconds     float64     `json:"seconds"`
	Up          float64     `json:"up_ms"` // from the start until the first client was served
	Seed        uint64      `json:"seed"`
	Interrupted bool        `json:"interrupted"`
	Connections int         `json:"connections"` // that were served
	Failed      int         `json:"failed"`
	Broke       int         `json:"broke"`          // with the backend that died
	Added       Quantiles   `json:"added_ms"`       // by the proxy: connect and echo through a POP, less the same straight to its backend
	Propagation Quantiles   `json:"propagation_ms"` // from a SQL statement on one POP until another routes by it
	FirstByte   Quantiles   `json:"first_byte_ms"`  // connect to the POP until the backend's first byte
	POPs        []POP       `json:"pops"`
	Backends    []Backend   `json:"backends"`
	Clients     []Client    `json:"clients"` // by country
	Faults      []Fault     `json:"faults"`
	NotPlayed   []string    `json:"not_played"` // parts of the default story, with why
	Invariants  []Invariant `json:"invariants"`
}

// POP is one of them.
type POP struct {
	Name        string `json:"name"`
	Region      string `json:"region"`
	Connections int    `json:"connections"` // that it served
	Cut         bool   `json:"cut"`         // off the mesh, now
}

// Backend is one of them.
type Backend struct {
	ID          string `json:"id"`
	Region      string `json:"region"`
	State       string `json:"state"` // in the first POP's picture, or dead
	Weight      int64  `json:"weight"`
	Connections int    `json:"connections"` // that it served
	Load        int64  `json:"load"`        // open over the whole mesh, as the first POP knows it
	Peak        int    `json:"peak"`        // open at a time, counted by the backend
	HardLimit   int64  `json:"hard_limit"`
}

// Client says where the clients of one country went.
type Client struct {
	Country     string         `json:"country"`
	Name        string         `json:"name"`
	Region      string         `json:"region"`
	Connections int            `json:"connections"`
	Backends    map[string]int `json:"backends"`
}

// OK says whether every invariant held.
func (r *Report) OK() bool {
	return !slices.ContainsFunc(r.Invariants, func(i Invariant) bool { return !i.OK })
}

// report is what is known so far.
func (r *run) report() *Report {
	out := &Report{
		Seconds: seconds(time.Since(r.began)), Seed: r.cfg.Seed, Interrupted: r.cut, NotPlayed: append([]string{}, r.left...),
		POPs: []POP{}, Backends: []Backend{}, Clients: []Client{}, Faults: []Fault{},
	}
	faults, verdicts := r.story.seen()
	out.Faults = append(out.Faults, faults...)
	var written int
	var late error
	out.Added, out.Propagation, written, late = r.probe.figures()
	r.backends(out)
	r.count(out)
	out.Invariants = append(out.Invariants, held(written > 0 && late == nil || len(out.POPs) == 1, "every write reached every POP that was not cut off",
		"%d writes%s", written, because(late)))
	out.Invariants = append(out.Invariants, verdicts...)
	return out
}

// backends fills in what the world says.
func (r *run) backends(out *Report) {
	first := r.world.allPOPs()[0]
	for _, b := range r.world.allBackends() {
		seen := first.sees(context.Background(), b.id)
		if !b.alive() {
			seen.State = "dead"
		}
		out.Backends = append(out.Backends, Backend{ID: b.id, Region: string(b.region), State: seen.State, Weight: seen.Weight,
			Load: seen.Connections, Peak: b.most(), HardLimit: r.world.ledger.number(b.id, "hard_limit")})
	}
	slices.SortStableFunc(out.Backends, func(a, b Backend) int { return cmp.Compare(place(a.Region), place(b.Region)) })
	for _, p := range r.world.allPOPs() {
		out.POPs = append(out.POPs, POP{Name: p.name, Region: string(p.region), Cut: r.world.links.isCut(p.name)})
	}
}

// place orders regions: those of the POPs first.
func place(region string) int {
	if i := slices.Index(regions, geo.Region(region)); i >= 0 {
		return i
	}
	return len(regions)
}

// count fills in what the tally says, and the invariants about all clients.
func (r *run) count(out *Report) {
	t := r.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	out.Connections, out.Failed, out.Broke, out.FirstByte = t.served, t.failed, t.broke, t.first.quantiles()
	if t.served > 0 {
		out.Up = float64(t.up.Sub(r.began).Microseconds()) / 1000
	}
	for i := range out.POPs {
		out.POPs[i].Connections = t.pops[out.POPs[i].Name]
	}
	var over []string
	for i := range out.Backends {
		b := &out.Backends[i]
		b.Connections = t.backends[b.ID]
		if int64(b.Peak) > b.HardLimit {
			over = append(over, fmt.Sprintf("%s had %d of %d", b.ID, b.Peak, b.HardLimit))
		}
	}
	for _, country := range slices.Sorted(maps.Keys(t.clients)) {
		p, _ := r.table.Place(country)
		c := Client{Country: country, Name: r.table.Name(country), Region: string(p.Region), Backends: maps.Clone(t.clients[country])}
		for _, n := range c.Backends {
			c.Connections += n
		}
		out.Clients = append(out.Clients, c)
	}
	slices.SortStableFunc(out.Clients, func(a, b Client) int { return cmp.Compare(place(a.Region), place(b.Region)) })
	astray := ""
	if t.astray > 0 {
		astray = ", the last one from " + t.strayed
	}
	out.Invariants = []Invariant{
		held(len(t.clients) == len(t.tried) && t.served > 0, "clients of every country were served", "%d of %d countries", len(t.clients), len(t.tried)),
		held(t.failed == 0, "no connection failed and every echo came back intact", "%d failed%s; %d broke with the backend that they were on", t.failed, because(t.failure), t.broke),
		held(t.astray == 0, "every client went to its region where that serves, else to its POP's, else to another", "%d of %d did not%s", t.astray, t.served, astray),
		held(len(over) == 0, "no backend had more connections than its hard limit", "%s", cmp.Or(strings.Join(over, ", "), "counted by the backends")),
	}
}

func held(ok bool, name, format string, args ...any) Invariant {
	return Invariant{name, ok, fmt.Sprintf(format, args...)}
}

// because puts an error behind a figure.
func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}
