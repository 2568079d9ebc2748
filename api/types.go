// Package api is the admin API of a POP: its HTTP server and the client of
// the command line, over one set of types.
//
//	srv := api.New(api.Config{Token: token, Ready: ready, Metrics: metrics}, pop, log)
//	err := srv.Serve(ctx, listener)                       // until ctx ends
//
//	client, err := api.Dial("127.0.0.1:8180", token)      // a POP, too
//	backends, err := client.Backends(ctx)
//
// GET /health and /ready answer to everybody. All else needs the token where
// one is set; without one the server must listen on loopback only, and checks
// Host and Origin so that a web page cannot use the browser of somebody on
// this machine. Errors are {"error": …, "field": …}. What is asked for is done
// by a POP: package node implements it over a running node and over a file.
package api

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// POP is what the API and the command line do. Implementations are safe for
// concurrent use. A value that makes no sense is refused with a
// *mesh.FieldError; other refusals wrap one of the sentinels below.
type POP interface {
	Backends(ctx context.Context) (BackendList, error)
	Backend(ctx context.Context, id string) (Backend, error)                  // ErrNotFound
	CreateBackend(ctx context.Context, set Patch) (Backend, error)            // ErrExists
	UpdateBackend(ctx context.Context, id string, set Patch) (Backend, error) // ErrNotFound
	DeleteBackend(ctx context.Context, id string) error                       // ErrNotFound
	// Explain says what is decided for a client of an app; empty: the one that the
	// POP's default listener serves.
	Explain(ctx context.Context, client netip.Addr, app string) (route.Explanation, error)
	Status(ctx context.Context) (Status, error)
	Services
}

// Sentinels of POP. Each comes wrapped in a sentence for a person.
var (
	ErrNotFound    = errors.New("not found")
	ErrExists      = errors.New("backend exists")
	ErrUnavailable = errors.New("routing database unavailable")
)

// Backend is a backend with its load. State is up, or why it takes no new
// connections: unhealthy (healthy=0), down (checks say so), ejected (connects of
// this POP failed), full (at hard_limit), draining, deleted, expired (it
// registered, and its heartbeats have ended) or failing (its agent says so).
type Backend struct {
	ID          string `json:"id"`
	App         string `json:"app"`
	Region      string `json:"region"`
	Addr        string `json:"addr"` // ip:port
	IP          string `json:"ip"`   // the same in two
	Port        uint16 `json:"port"`
	Healthy     bool   `json:"healthy"`
	Weight      int64  `json:"weight"`
	SoftLimit   int64  `json:"soft_limit"`
	HardLimit   int64  `json:"hard_limit"`  // 0: none
	Connections int64  `json:"connections"` // of all POPs
	Own         int64  `json:"own"`         // of this POP
	State       string `json:"state"`
	Why         string `json:"why,omitempty"` // of the state, for people: who says so and since when
	Country     string `json:"country,omitempty"`
	HealthCheck string `json:"health_check,omitempty"` // its own or its service's; empty: the POP's default

	ProxyProtocol string `json:"proxy_protocol,omitempty"` // v1 or v2, what it is sent: its own or its service's; empty: none

	Checks       []Verdict `json:"checks,omitempty"`       // one of each POP that checks it
	EjectedUntil time.Time `json:"ejected_until,omitzero"` // by this POP

	// Of one that registered itself.
	LastHeartbeat *int64 `json:"last_heartbeat_secs,omitempty"` // seconds ago
	Registered    *int64 `json:"registered_secs,omitempty"`     // seconds ago
	TTL           int64  `json:"ttl_secs,omitempty"`            // without a heartbeat for so long it is out of routing
}

// Verdict is what one POP's checks say of a backend.
type Verdict struct {
	POP   string    `json:"pop"`
	Up    bool      `json:"up"`
	Since time.Time `json:"since"`
	Why   string    `json:"why,omitempty"` // of a failure
}

// BackendList is the answer to GET /api/v1/backends. Problems names the rows
// of the database that are left out because they make no sense.
type BackendList struct {
	Backends []Backend      `json:"backends"`
	Total    int            `json:"total"`
	Problems []mesh.Problem `json:"problems,omitempty"`
}

// Patch is the fields of a backend that somebody sets; nil leaves a field as
// it is, or at its default in a new row. The address is given as addr, or as
// ip and port.
type Patch struct {
	ID        *string `json:"id,omitempty"` // only when creating
	App       *string `json:"app,omitempty"`
	Region    *string `json:"region,omitempty"`
	Addr      *string `json:"addr,omitempty"`
	IP        *string `json:"ip,omitempty"`
	Port      *int64  `json:"port,omitempty"`
	Healthy   *bool   `json:"healthy,omitempty"`
	Weight    *int64  `json:"weight,omitempty"`
	SoftLimit *int64  `json:"soft_limit,omitempty"`
	HardLimit *int64  `json:"hard_limit,omitempty"`
	Deleted   *bool   `json:"deleted,omitempty"`
	Draining  *bool   `json:"draining,omitempty"`
	Country   *string `json:"country,omitempty"`

	HealthCheck   *string `json:"health_check,omitempty"`   // empty: its service's
	ProxyProtocol *string `json:"proxy_protocol,omitempty"` // off, v1 or v2; empty: its service's
}

// Status is the answer to GET /api/v1/status.
type Status struct {
	Node        string         `json:"node"`
	Region      string         `json:"region"`
	Version     string         `json:"version"`
	PID         int            `json:"pid,omitempty"` // of a running POP
	Ready       bool           `json:"ready"`
	Reasons     []string       `json:"reasons"` // why it is not ready
	Connections int64          `json:"connections"`
	Bindings    int            `json:"bindings"`
	Backends    BackendCounts  `json:"backends"`
	Geo         GeoStatus      `json:"geo"`
	Listen      string         `json:"listen"`
	API         string         `json:"api"`
	DNS         string         `json:"dns,omitempty"` // empty where the POP answers no DNS
	DB          string         `json:"db"`
	Started     time.Time      `json:"started,omitzero"`
	Problems    []mesh.Problem `json:"problems"`
	Faults      []mesh.Fault   `json:"faults"` // what POPs cannot do as the rows say, of all that live
	Certs       []Certificate  `json:"certificates,omitempty"`
	MeshStatus                 // of a running POP
}

// Certificate is one of a POP's files, for services that terminate TLS: one in
// use, or one with a problem.
type Certificate struct {
	File     string    `json:"file"`
	Names    []string  `json:"names,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
	Problem  string    `json:"problem,omitempty"` // what it held before, if anything, is in use
}

// BackendCounts are the numbers of backends in the table and of those that
// take new connections.
type BackendCounts struct {
	Total int `json:"total"`
	Up    int `json:"up"`

	// Of those that registered themselves.
	Registered int `json:"registered,omitempty"`
	Expired    int `json:"expired,omitempty"` // without a heartbeat for too long
	Failing    int `json:"failing,omitempty"` // their agents say so
}

// GeoStatus says which country database is in use.
type GeoStatus struct {
	Source string    `json:"source"` // embedded, or the file
	Built  time.Time `json:"built"`
}

// PopFile is the content of <database>.pop, JSON: the address file beside the
// database, by which the command line finds the API.
type PopFile struct {
	Node   string `json:"node"`
	PID    int    `json:"pid"`
	Listen string `json:"listen"`
	API    string `json:"api"`
	Gossip string `json:"gossip,omitempty"`
	Sync   string `json:"sync,omitempty"`
	DNS    string `json:"dns,omitempty"`
}
