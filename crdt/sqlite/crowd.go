package sqlite

import (
	"fmt"
	"time"
)

// maxOwned is how many records may have their latest write by one other POP. A
// new row beyond it is refused, by name; those that are here can be written on.
// A row takes up to 4 KB of memory on each POP of the mesh, so that this is
// what a small machine has; and it is no setting, so that what is taken does
// not depend on who takes it.
const maxOwned = 250_000

// recount is how often the records of a POP with too many are counted, at most.
const recount = 10 * time.Second

// crowd is how many records are a POP's: at most so many, as those are in it
// that it has lost since they were counted.
type crowd struct {
	records int
	counted time.Time
}

// take takes one more row as a POP's, or refuses it and says why.
func (b *batch) take(node string) (refused, err error) {
	if node == b.self.Node {
		return nil, nil
	}
	c := b.crowds[node]
	if c == nil || c.records >= b.mostOwned && time.Since(c.counted) > recount {
		c = &crowd{counted: time.Now()}
		for origin, id := range b.originIDs {
			if origin.Node != node {
				continue
			}
			err := b.c.eachInt(b.ctx, func(n int64) { c.records += int(n) }, "SELECT count(*) FROM crdt_rows WHERE origin = ?", id)
			if err != nil {
				return nil, err
			}
		}
		if b.crowds == nil {
			b.crowds = map[string]*crowd{}
		}
		b.crowds[node] = c // once it is whole
	}
	if c.records >= b.mostOwned {
		return fmt.Errorf("%s has %d rows, and no more are taken of one POP: delete some of them", node, c.records), nil
	}
	c.records++
	return nil, nil
}
