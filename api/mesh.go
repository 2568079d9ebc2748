package api

import (
	"context"
	"errors"
	"io"
	"time"
)

// Mesh is what the API and the command line do with the other POPs, through a
// running one. Implementations are safe for concurrent use; refusals wrap one
// of the sentinels of POP or ErrConflict.
type Mesh interface {
	Load(ctx context.Context) (Load, error)
	Members(ctx context.Context) ([]Member, error)
	Forget(ctx context.Context, node string) error // ErrNotFound; ErrConflict while it lives
	Leave(ctx context.Context) error               // returns before the POP has ended
	Upgrade(ctx context.Context) (Upgrade, error)  // returns before the new process serves; ErrConflict where it cannot be

	Keys(ctx context.Context) ([]ClusterKey, error)
	AddKey(ctx context.Context, key string) (ClusterKey, error) // base64 of 32 bytes
	UseKey(ctx context.Context, id string, force bool) error    // ErrNotFound; ErrConflict while a member lacks it
	RemoveKey(ctx context.Context, id string, force bool) error // ErrNotFound; ErrConflict while it is in use

	Quarantine(ctx context.Context) ([]Quarantined, error)
	Release(ctx context.Context, row string) error // ErrNotFound
	Drop(ctx context.Context, row string) error    // ErrNotFound

	Overlay

	// Backup writes a consistent copy of the routing database.
	Backup(ctx context.Context, to io.Writer) error
}

// Upgrade is the process that takes a POP over.
type Upgrade struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
}

// ErrConflict is a refusal because of the state that the mesh is in.
var ErrConflict = errors.New("refused")

// Member is a POP, or another agent in the ring, as this POP sees it. Status
// is one of serf's words: alive, leaving, left, failed.
type Member struct {
	Name   string            `json:"name"`
	Region string            `json:"region"`
	Addr   string            `json:"addr"` // gossip, ip:port
	Status string            `json:"status"`
	RTT    *float64          `json:"rtt_ms"` // milliseconds by network coordinates; null: not known yet
	Tags   map[string]string `json:"tags"`
}

// ClusterKey is a key that the mesh accepts. The secret itself is not shown.
type ClusterKey struct {
	ID      string    `json:"id"`
	Primary bool      `json:"primary"`        // the one that is used for what is sent
	Added   time.Time `json:"added,omitzero"` // zero: by nobody, it is the one of the settings
	Members []string  `json:"members"`        // who says that it accepts the key
}

// Quarantined is a record that waits because its stamp lies in the future.
type Quarantined struct {
	Row    string    `json:"row"`    // table/id
	Reason string    `json:"reason"` // a sentence that names who wrote it
	Time   time.Time `json:"time"`   // its stamp
	From   string    `json:"from"`   // who sent it
}

// MeshStatus is the part of Status about the mesh.
type MeshStatus struct {
	Members []Member     `json:"members"`
	Records RecordStatus `json:"records"`
	Peers   []PeerStatus `json:"peers"`
	Waiting string       `json:"waiting,omitempty"` // what it is waiting for to join
	Error   string       `json:"error,omitempty"`   // why what was written here is not sent
	Offset  float64      `json:"clock_offset_ms"`   // mesh time minus this machine's clock
	Overlay string       `json:"overlay,omitempty"` // what the WireGuard overlay is like, for people; GET /api/v1/wg has it whole
	Repairs []string     `json:"repairs,omitempty"` // what the checks of this run found and mended, latest last
}

// RecordStatus describes the replicated rows. Digest is equal on two POPs that
// hold the same operator rows.
type RecordStatus struct {
	Digest      string `json:"digest"`
	Rows        int    `json:"rows"`
	Missing     uint64 `json:"missing"` // writes that peers are known to have and this POP lacks
	Quarantined int    `json:"quarantined"`
	Tombstones  int    `json:"tombstones"`
}

// PeerStatus is the record stream to another POP.
type PeerStatus struct {
	Node      string  `json:"node"`
	Connected bool    `json:"connected"`
	Lag       float64 `json:"lag_ms"` // how long it has been behind what was written here
	Queued    int     `json:"queued"` // records waiting to be sent
	Offset    float64 `json:"clock_offset_ms"`
	Error     string  `json:"error,omitempty"` // why it is not connected
}
