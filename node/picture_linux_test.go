package node

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/rs/zerolog"
)

// TestIdleWatchSleeps: where nothing is written, watch trusts the kernel to
// tell, and looks a tenth as often as it would without.
func TestIdleWatchSleeps(t *testing.T) {
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "routing.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	p := &picture{store: store, publish: func(*mesh.Snapshot, time.Time) {}, log: zerolog.Nop()}
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { p.watch(ctx, time.Hour) })
	defer watching.Wait()
	defer cancel()
	<-time.After(2*stirring + pollIdle) // what the opening of the file stirred up
	const lasts = 5 * pollIdle
	before := p.looking.At()
	<-time.After(lasts)
	// A look adds 8: for its begin, its end and three steps.
	if n := p.looking.At() - before; n > 8*uint64(lasts/pollEvery)/2 {
		t.Errorf("%d begins, ends and steps of looks in %s, half as many as without the kernel's word", n, lasts)
	}
}
