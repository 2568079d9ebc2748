package api

import "time"

// Load is the answer to GET /api/v1/load: what all POPs have open at one
// moment, as the POP asked knows it. What others have is as old as their
// reports, up to the lag of each.
type Load struct {
	Node     string        `json:"node"` // who was asked
	Time     time.Time     `json:"time"`
	POPs     []POPLoad     `json:"pops"`     // the one asked first
	Backends []BackendLoad `json:"backends"` // in the order of their ids
}

// POPLoad is one POP. Connections are those with backends, connects under way
// included. A POP without a lag is not counted: it has said nothing for the
// length of a lease.
type POPLoad struct {
	Node        string   `json:"node"`
	Region      string   `json:"region"`
	Status      string   `json:"status"` // as a Member's
	RTT         *float64 `json:"rtt_ms"` // as a Member's
	Lag         *float64 `json:"lag_ms"` // age of its last report
	Connections int64    `json:"connections"`
	Rate        float64  `json:"rate"` // new connections per second
}

// BackendLoad is a backend with who has its connections.
type BackendLoad struct {
	Backend
	Rate     float64          `json:"rate"`     // new connections per second through the POP asked
	Headroom *int64           `json:"headroom"` // connections up to hard_limit; null: unlimited
	ByPOP    map[string]int64 `json:"by_pop"`   // POPs that have any
}
