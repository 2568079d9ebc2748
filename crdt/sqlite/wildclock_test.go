package sqlite

import "testing"

// TestEpochsOfAWildClock: each epoch is above those before, whatever the clock says.
func TestEpochsOfAWildClock(t *testing.T) {
	p := newPop(t, newPath(t), "sa")
	last := p.life.Epoch
	for _, now := range []int64{year2262, 0, -5000, 1 << 62, 3_999_999_999_000, wall()} {
		p.now = func() int64 { return now }
		raw(t, p.path, "INSERT INTO backends (id) VALUES ('row') ON CONFLICT DO UPDATE SET weight = ifnull(weight, 0) + 1")
		p.fold()
		p.life.Clean = false // as after kill -9
		if begun := p.begin(); begun.Origin.Epoch <= last {
			t.Fatalf("epoch %d after %d, at %d", begun.Origin.Epoch, last, now)
		}
		last = p.life.Epoch
	}
}
