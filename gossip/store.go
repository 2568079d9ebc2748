package gossip

import (
	"context"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// Store is the POP's records. Its methods are safe for concurrent use and may
// block for as long as the disk does; none is called on the serving path.
type Store interface {
	// Heads is what the POP knows of each origin. It may be less than before,
	// when an older database took this one's place. The caller keeps the map.
	Heads(ctx context.Context) (crdt.Heads, error)

	// Horizon is up to which of each origin's writes deletes were forgotten: a
	// peer whose heads do not cover it may hold rows that are gone, and must
	// take a whole snapshot.
	Horizon(ctx context.Context) (crdt.Heads, error)

	// Since is the next part of what a peer with these heads lacks, about limit
	// bytes of it, and whether there is more once it has that. Every part moves
	// a head: of each origin it goes upwards. have is left as it is.
	Since(ctx context.Context, have crdt.Heads, limit int) (part crdt.Delta, more bool, err error)

	// Apply merges what a peer sent and moves the heads over its ranges, in
	// their order and as crdt.Heads.Cover does: a range from 0 always counts. A
	// row may come twice. The horizon rises to the delta's together with the
	// heads. A record that cannot be taken is in Refused and keeps
	// none of the others back. It has committed when it returns nil, and has
	// taken nothing when it returns an error. One call at a time.
	Apply(ctx context.Context, peer string, d crdt.Delta) (crdt.Applied, error)

	// States is the sum of crdt.Record.State over the rows of each of
	// crdt.Buckets buckets, without tombstones that the horizon covers.
	States(ctx context.Context, horizon crdt.Heads) ([]crdt.Sum, error)

	// Bucket is the rows of some buckets, deleted ones too.
	Bucket(ctx context.Context, buckets []int) ([]crdt.Record, error)

	// Purge forgets, without a trace, the rows that a peer which gave us all it
	// has does not have, although its heads cover everything they consist of:
	// they were deleted, and the delete is forgotten everywhere.
	Purge(ctx context.Context, peer crdt.Heads, has func(crdt.Key) bool) (purged int, err error)
}
