package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/internal/handover"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// succession is a POP's part in zero-downtime upgrades. A generation, which is
// a process, goes through
//
//	serving ─ Upgrade: heir ready ─ retired: nothing but the proxy ─ heir serves ─ draining ─ ended
//	              └─ not ready: serving                 └─ it does not: another heir, of this binary
//
// so that database, membership and API have one owner at a time, and clients
// are accepted all the time: by the old one with its last routing picture, then
// by the new one from the same sockets.
type succession struct {
	upgrading sync.Mutex // from Upgrade on, for good where it succeeds
	heirs     chan heir
	settled   chan struct{} // closed when nobody takes an heir any more
	retired   atomic.Bool
	will      will       // of the generation before
	without   []string   // names of sockets of the generation before that are not served any more
	older     []*os.File // where they tell of their connections
	elders    elders
}

// heir is the process of the next generation and what it was given.
type heir struct {
	*handover.Heir
	*bequest
}

const (
	readyWithin   = 30 * time.Second // for a new process to read its settings
	servingWithin = time.Minute      // and to serve, once it may
	heirAgain     = 5 * time.Second  // until another is tried
	untilTheLast  = 100 * 365 * 24 * time.Hour
)

// Upgrade implements api.POP: it starts the binary that is on the disk now, and
// returns once that has read its settings. What follows, the log tells.
func (n *Node) Upgrade(ctx context.Context) (api.Upgrade, error) {
	if why := n.cannotUpgrade(); why != "" {
		return api.Upgrade{}, fmt.Errorf("%w: %s", api.ErrConflict, why)
	}
	if !n.upgrading.TryLock() {
		return api.Upgrade{}, fmt.Errorf("%w: an upgrade is under way", api.ErrConflict)
	}
	up, err := n.upgrade(ctx)
	if err != nil {
		n.listeners.release()
		n.upgrading.Unlock()
	}
	return up, err
}

func (n *Node) upgrade(ctx context.Context) (up api.Upgrade, err error) {
	b, err := n.bequeath()
	if err != nil {
		return up, fmt.Errorf("pass the sockets on: %w", err)
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // told to end meanwhile, and that holds
		select {
		case <-n.settled:
			cancel()
		case <-ctx.Done():
		}
	}()
	h, version, err := b.beget(ctx, n.opts.Successor())
	if err != nil {
		return up, fmt.Errorf("not upgraded, serving on: %w", err)
	}
	select {
	case n.heirs <- heir{h, b}:
	case <-n.settled:
		h.Kill()
		return up, fmt.Errorf("%w: it is draining", api.ErrConflict)
	}
	n.log.Info().Int("pid", h.PID).Str("version", version).Msg("upgrading: the new process takes over")
	return api.Upgrade{PID: h.PID, Version: version}, nil
}

func (n *Node) cannotUpgrade() string {
	select {
	case <-n.ready:
	default:
		return "it is starting"
	}
	switch {
	case n.opts.Successor == nil:
		return "this POP runs inside another program (the lab)"
	case os.Getpid() == 1:
		return "as process 1 of a container its end would be that of the new process: start a new container instead"
	case n.draining.Load():
		return "it is draining"
	case n.cfg.StrictLimits:
		return "with strict_limits the new process would not know to which places the old one's connections have a right: restart instead"
	}
	return ""
}

// passOn waits for an heir and has it take over. retire ends everything of this
// generation but the proxy, and returns when it has ended.
func (n *Node) passOn(ctx context.Context, retire func()) error {
	defer close(n.settled)
	var h heir
	select {
	case <-ctx.Done():
		return nil
	case h = <-n.heirs:
	}
	defer h.bequest.close()
	n.retired.Store(true)
	retire()
	n.elders.close()
	if err := n.closeLive(); err != nil {
		n.log.Error().Err(err).Msg("upgrading: the database could not be closed in order")
	}
	n.lock.release()
	stopPinging := pinging() // systemd would end what serves the clients
	without, err := install(ctx, h.Heir, servingWithin)
	for within := 2 * servingWithin; err != nil; within *= 2 { // it may be that slow
		n.log.Error().Err(err).Msg("upgrading: taken back by the binary that runs; meanwhile clients are served with what was known")
		if h.Heir, _, err = h.beget(ctx, itself(n.opts.Successor())); err == nil {
			without, err = install(ctx, h.Heir, within)
		}
		if err == nil {
			break
		}
		select {
		case <-ctx.Done(): // told to end: with nobody to take over that is like any end
			stopPinging()
			notify(daemon.SdNotifyStopping)
			_ = removePop(n.cfg.DBPath)
			return nil
		case <-time.After(heirAgain):
		}
	}
	stopPinging()
	h.closeSockets() // whose copies keep an address open that is not served any more
	notify(fmt.Sprintf("MAINPID=%d", h.PID))
	cfg := n.latest.Load()
	set := settings(cfg, int(n.serviceListeners.Load()))
	if set.Drain = cfg.UpgradeDrain; set.Drain == 0 {
		set.Drain = untilTheLast
	}
	n.server.Configure(set)
	n.server.GiveAway(n.listeners.sockets()...)
	if !slices.Contains(without, socketListen) {
		n.server.GiveAway(n.front)
	}
	n.log.Info().Int("pid", h.PID).Int64("connections", n.server.Active()).Msg("upgraded: the new process serves, this one drains")
	n.end()
	n.reportTo(h.report)
	return nil
}

// install has the heir take over, and returns the names of the sockets that it
// does without.
func install(ctx context.Context, h *handover.Heir, within time.Duration) (without []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err = h.Give(); err == nil {
		without, err = h.Serving(ctx)
	}
	if err != nil {
		h.Kill()
	}
	return without, err
}

// pinging tells systemd's watchdog that this process gets on, while that of the
// parts which have ended cannot.
func pinging() (stop func()) {
	over := make(chan struct{})
	go func() {
		for {
			notify(daemon.SdNotifyWatchdog)
			select {
			case <-over:
				return
			case <-time.After(time.Second):
			}
		}
	}()
	return func() { close(over) }
}

// itself makes a command start the binary that runs, whatever is at its path now.
func itself(cmd *exec.Cmd) *exec.Cmd {
	if runtime.GOOS == "linux" {
		cmd.Path = "/proc/self/exe"
	}
	return cmd
}

// reportTo tells the next generations how many connections each backend still
// has here, until there are none.
func (n *Node) reportTo(conn net.Conn) {
	for {
		counts := map[string]int64{}
		for _, s := range n.router.Slots.Stats() {
			if s.Connections > 0 {
				counts[s.ID] = s.Connections
			}
		}
		over := n.server.Active() == 0
		sendCounts(conn, counts, over)
		if over {
			return
		}
		<-time.After(reportEvery)
	}
}

// succeed has ready what two generations can have at a time, so that what is
// wrong there ends this one and not the one before; tells that one; and waits
// until it has let go of the rest.
func (n *Node) succeed(ctx context.Context) error {
	estate := n.opts.Estate
	if !estate.Succeeds() {
		return nil
	}
	if err := estate.Will(&n.will); err != nil {
		return fmt.Errorf("handover: %w", err)
	}
	n.affinity = route.NewAffinity(n.cfg.BindingTTL, n.cfg.BindingMax)
	for _, f := range estate.Take(fileBindings) {
		if err := readBindings(f, n.affinity); err != nil {
			n.log.Warn().Err(err).Msg("clients lose their affinity")
		}
	}
	if err := n.listen(ctx, n.cfg); err != nil {
		return err
	}
	if err := n.openGeo(n.cfg); err != nil {
		return err
	}
	if err := roomBeside(n.cfg.DBPath); err != nil {
		return err
	}
	if err := estate.Ready(n.opts.Version); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, servingWithin)
	defer cancel()
	return estate.Await(ctx)
}

// roomBeside says that the disk of the database is full, on which a start
// fails. Where nothing can be written for another reason it can go on.
func roomBeside(db string) error {
	f, err := os.CreateTemp(filepath.Dir(db), filepath.Base(db)+".room.*")
	if err == nil {
		_ = os.Remove(f.Name())
		_, err = f.Write(make([]byte, 64<<10))
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("no room for the files beside %s: %w", db, err)
	}
	return nil
}

// Retire makes a generation that drains for an upgrade end within the usual
// time. It says whether this is one.
func (n *Node) Retire() bool {
	if !n.retired.Load() {
		return false
	}
	time.AfterFunc(n.latest.Load().Drain, n.Abort)
	return true
}
