// Package gossip brings the records of all POPs together: over one TLS stream
// per pair of POPs, as they are written and, whatever was lost, later.
//
//	m, err := gossip.New(gossip.Config{Node: "sa-1", Nonce: nonce, Credentials: creds, Store: store}, log)
//	go m.Serve(ctx, listener)       // others dial us
//	go m.Run(ctx)                   // we dial others, apply, compare, repair
//	m.SetPeers(members)             // who there is now, as often as it changes
//	m.Publish(delta)                // what was written and sealed here; never blocks
//	<-m.Synced()                    // all that one peer knows is here
//
// What is new goes to every peer at once: queues per peer, in which a later
// state of a row replaces the earlier one, flushed every 10 ms. What a peer
// lacks all the same it finds by comparing heads, which every peer announces
// when they change, and pulls:
//
//	delta ->   rows, and last the ranges of writes that they complete
//	heads ->   what I have: acknowledges deltas, and invites to pull
//	pull  ->   what I have; send me the rest
//	  <- delta ... delta, pulled (heads)
//
// That is so up to Config.FanoutLimit POPs. Above, each holds streams with a few
// neighbours (package overlay), which pass on what is new:
//
//	link    what I make of this stream: neighbour, or not, or of a full mesh
//	prune   others are quicker with what these POPs write
//	graft   push me that again
//	beat    a POP's load, clock and progress, passed on
//	census  say in your beats when you have all of this
//
// Invariants:
//   - A head never moves before the records below it are stored, on either side
//     of a lost frame, a full queue, a failed disk or a broken stream.
//   - Memory per peer is bounded: by keys for what waits to be sent, by bytes
//     for what waits to be stored. A slow peer delays nobody but itself.
//   - Everything that arrives is taken for hostile until it is decoded: a bad
//     frame ends its stream, a bad record is refused by name and alone.
//   - What a peer has acknowledged, its Store has committed.
//
// What it does not do: it knows neither membership nor the meaning of a row,
// assigns no stamps, and keeps nothing on disk.
package gossip
