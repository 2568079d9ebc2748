// Package crdt holds the rows that POPs agree on without asking each other:
// last-writer-wins records, one per row, with a stamp for every column.
//
//	var clock crdt.Clock
//	stamp := crdt.Stamp{Time: clock.Next(crdt.At(ms), above), Origin: self, Seq: n}
//	merged := crdt.Merge(mine, theirs)       // the same in any order
//	frame := crdt.Delta{Ranges: covered, Records: rows}.Append(nil)
//	delta, refused, err := crdt.DecodeDelta(frame)
//	for _, r := range delta.Ranges {
//		heads.Cover(r)                   // what need not be sent again
//	}
//
// A record is state, not a log entry: a write that was overwritten leaves
// nothing behind. Merge is commutative, associative and idempotent, so that
// POPs which have seen the same records hold the same rows, however often, in
// whatever order and in whatever parts they came. It depends on nothing but
// the two records: not on configuration, validity or the time of day.
//
// The package computes. It has no clock, no network and no database; those
// come from gossip and crdt/sqlite. Replica is a whole store in memory, for
// simulations. What a row means, and whether it makes sense, is not its matter.
package crdt
