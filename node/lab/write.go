package lab

import (
	"context"
	"fmt"

	"github.com/edgeproxy/edgeproxy/geo"
)

// Limits and weights of the seed's lab.
const (
	softLimit = 50
	hardLimit = 100
)

// beacon is a row that the lab writes all the time, to see how long a write
// takes: no POP routes to it.
const beacon = "beacon"

func (w *world) addBeacon(ctx context.Context, at *pop) error {
	return w.insert(ctx, at, beacon, "beacon", regions[0], 9, 0, 1)
}

func (w *world) insert(ctx context.Context, at *pop, id, app string, region geo.Region, port, healthy, weight int64) error {
	_, err := at.db.ExecContext(ctx, "INSERT INTO backends VALUES (?, ?, ?, '127.0.0.1', ?, ?, ?, ?, ?, 0)",
		id, app, string(region), port, healthy, weight, softLimit, hardLimit)
	if err != nil {
		return fmt.Errorf("write %s on %s: %w", id, at.name, err)
	}
	for i, v := range []any{app, string(region), port, healthy, weight, int64(softLimit), int64(hardLimit)} {
		w.ledger.set(id, columns[i], v)
	}
	return nil
}

// set writes one column of a backend on a POP, as sqlite3 would.
func (w *world) set(ctx context.Context, at *pop, id, column string, value int64) error {
	if _, err := at.db.ExecContext(ctx, "UPDATE backends SET "+column+"=? WHERE id=?", value, id); err != nil {
		return fmt.Errorf("write %s on %s: %w", id, at.name, err)
	}
	w.ledger.set(id, column, value)
	return nil
}

// drain writes for all backends of a region that they drain, or no more.
func (w *world) drain(ctx context.Context, at *pop, region geo.Region, on bool) error {
	draining := int64(0)
	if on {
		draining = 1
	}
	_, err := at.db.ExecContext(ctx, `INSERT INTO backend_options (id, draining) SELECT id, ? FROM backends WHERE region=? AND app=?
		ON CONFLICT (id) DO UPDATE SET draining=excluded.draining`, draining, string(region), app)
	if err != nil {
		return fmt.Errorf("drain %s on %s: %w", region, at.name, err)
	}
	for _, id := range w.idsIn(region) {
		w.ledger.set(id, "draining", draining)
	}
	return nil
}
