package node

import (
	"context"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/edgeproxy/edgeproxy/internal/progress"
)

// patience is how often the watchdog looks, and how often it finds a loop at
// the same piece of work before it counts as stuck. The longest that a piece
// takes by itself is the wait for a lock of the database, 5 s.
type patience struct {
	every time.Duration
	looks int
}

var usualPatience = patience{every: time.Second, looks: 20}

// watchdog sees whether the loops get on that keep the routes current and take
// connections. systemd (Type=notify, WatchdogSec=) hears from it while they
// all do. The part of the POP that is stuck is replaced; where that does not
// help, or the loop is one that cannot be, the POP serves with what it has, and
// whoever supervises it decides.
type watchdog struct {
	*Node
	accept    progress.Watch
	of        *part
	loops     []*progress.Watch // of it
	replacing chan error        // nil: nothing is being replaced
	again     int               // looks until another try
	said      string
}

func (n *Node) watch(ctx context.Context) {
	w := watchdog{Node: n, accept: progress.Watch{Name: "accept", At: n.accepting}}
	ticker := time.NewTicker(n.patience.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-w.replacing:
			w.replaced(err)
		case <-ticker.C:
			w.look(ctx)
		}
	}
}

func (w *watchdog) look(ctx context.Context) {
	if live := w.live.Load(); live != w.of {
		w.of, w.loops = live, live.watched()
	}
	var stuck []string
	for _, l := range append(w.loops, &w.accept) {
		if l.Look() >= w.patience.looks {
			stuck = append(stuck, l.Name)
		}
	}
	mendable := len(stuck) > 0 && stuck[0] != w.accept.Name
	if w.of.over.Load() { // its loops have nothing to do any more, and no other part is there
		mendable, stuck = true, append(stuck, "restart")
	}
	text := strings.Join(stuck, ", ")
	switch {
	case text == "":
		notify(daemon.SdNotifyWatchdog)
	case text != w.said:
		w.log.Error().Str("loops", text).Msg("watchdog: no progress")
	}
	w.said = text
	w.stuck.Store(&text)
	w.again--
	if mendable && w.replacing == nil && w.again <= 0 {
		// It may be stuck itself, where the disk is: the watchdog goes on looking.
		done, of := make(chan error, 1), w.of
		w.replacing = done
		go func() { done <- w.replace(ctx, of) }()
	}
}

func (w *watchdog) replaced(err error) {
	w.replacing, w.again = nil, w.patience.looks
	if err != nil {
		w.log.Error().Err(err).Msg("watchdog: serving with the last picture: the part that is stuck cannot be replaced, tried again")
		return
	}
	w.log.Warn().Msg("watchdog: the part that was stuck has been replaced")
}

// watched are the part's loops.
func (p *part) watched() []*progress.Watch {
	all := []*progress.Watch{{Name: "database", At: p.picture.looking.At}}
	if p.mesh != nil {
		all = append(all, &progress.Watch{Name: "apply", At: p.mesh.streams.Applying.At},
			&progress.Watch{Name: "exchange", At: p.mesh.streams.Exchanging.At})
	}
	return all
}

// accepting is where the accept loop is, as of a progress.Loop: it has work
// while connections wait to be accepted, and gets on while their number counts
// up, errors and pauses with it.
func (n *Node) accepting() uint64 {
	if !n.server.Waiting(n.front) {
		return 0
	}
	st := n.server.Metrics.Stats()
	return 2*(st.Accepted+st.AcceptErrors+st.AcceptPauses) + 1
}

// notify tells systemd, if it started this POP, how that goes.
func notify(state string) { _, _ = daemon.SdNotify(false, state) }
