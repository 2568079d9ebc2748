package sqlite

import (
	"context"
	"database/sql"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// load reads what the replica keeps of the file in memory.
func (p *replica) load(ctx context.Context, c *conn) error {
	p.names, p.heads, p.horizon, p.headBytes = newNames(), crdt.Heads{}, crdt.Heads{}, 0
	var clock int64
	if _, err := c.one(ctx, []any{&p.version, &clock}, "SELECT version, clock FROM crdt_control WHERE id = 1"); err != nil {
		return err
	}
	p.clock.Last = crdt.Time(clock)
	err := c.each(ctx, func(rows *sql.Rows) error {
		var id, epoch, head, collected int64
		var o crdt.Origin
		if err := rows.Scan(&id, &o.Node, &epoch, &head, &collected); err != nil {
			return err
		}
		o.Epoch = uint32(epoch)
		p.addOrigin(id, o)
		if head > 0 {
			p.heads[o] = uint64(head)
		}
		if collected > 0 {
			p.horizon[o] = uint64(collected)
		}
		return nil
	}, "SELECT id, node, epoch, head, collected FROM crdt_origins")
	if err != nil {
		return err
	}
	err = c.each(ctx, func(rows *sql.Rows) error {
		var id int64
		var name string
		if err := rows.Scan(&id, &name); err != nil {
			return err
		}
		p.addName(id, name)
		return nil
	}, "SELECT id, name FROM crdt_names")
	if err != nil {
		return err
	}
	p.sum, p.rows, p.dead, p.states, p.foreign = crdt.Sum{}, 0, 0, nil, map[string]int{}
	err = p.scan(ctx, c, "", func(rec crdt.Record, err error) error {
		if err == nil {
			sum, live, dead := tally(rec)
			p.sum, p.rows, p.dead = p.sum.Plus(sum), p.rows+live, p.dead+dead
			if p.isForeign(rec.Table) {
				p.foreign[rec.Table] += p.foreignSize(rec)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.loadHeld(ctx, c)
}

// scan calls yield for every record that the condition, on crdt_rows, names;
// with an error, and the key alone, where its bytes are damaged.
func (p *replica) scan(ctx context.Context, c *conn, condition string, yield func(crdt.Record, error) error, args ...any) error {
	return c.each(ctx, func(rows *sql.Rows) error {
		var tbl int64
		var pk, rec sql.RawBytes
		if err := rows.Scan(&tbl, &pk, &rec); err != nil {
			return err
		}
		return yield(p.decode(p.key(tbl, pk), rec))
	}, "SELECT tbl, pk, rec FROM crdt_rows "+condition, args...)
}

func (p *replica) key(tbl int64, pk []byte) crdt.Key {
	key := crdt.Key{PK: string(pk)}
	if tbl > 0 && tbl < int64(len(p.names.names)) {
		key.Table = p.names.names[tbl]
	}
	return key
}

// tally is what a record adds to the digest.
func tally(rec crdt.Record) (sum crdt.Sum, live, dead int) {
	switch {
	case rec.Key == crdt.Key{}:
	case !rec.Live():
		dead = 1
	case !ofPOPs(rec.Table):
		sum, live = rec.Values(), 1
	}
	return sum, live, dead
}
