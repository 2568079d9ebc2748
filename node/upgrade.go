package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/internal/handover"
)

// Names of the sockets that one generation of a POP passes on to the next.
// systemd's may have the first two.
const (
	socketListen = "listen" // of the default service: all that share its address
	socketAPI    = "api"
	socketElder  = "elder" // where a generation before this one, that drains, tells of its connections
)

// will is what the old process says as it lets go.
type will struct {
	Gossip string `json:"gossip"` // addresses that it had, with the ports that were chosen
	Sync   string `json:"sync"`
}

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
	heirs     chan *heir // size 1
	retired   atomic.Bool
	will      will // of the generation before
	elders    elders
}

// heir is the next generation and where it reads of ours.
type heir struct {
	*handover.Heir
	report net.Conn // nil: it knows nothing of this generation's connections
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
	h, version, err := n.beget(ctx, n.opts.Successor())
	if err != nil {
		n.upgrading.Unlock()
		n.log.Error().Err(err).Msg("not upgraded: serving on")
		return api.Upgrade{}, err
	}
	n.log.Info().Int("pid", h.PID).Str("version", version).Msg("upgrading: the new process takes over")
	n.heirs <- h
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

// beget starts the next generation and waits until it has read its settings.
func (n *Node) beget(ctx context.Context, cmd *exec.Cmd) (_ *heir, version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	var sockets []handover.Socket
	defer func() {
		for _, s := range sockets {
			s.File.Close()
		}
	}()
	add := func(name string, files ...*os.File) {
		for _, f := range files {
			sockets = append(sockets, handover.Socket{Name: name, File: f})
		}
	}
	front, err := n.server.Files(n.front)
	add(socketListen, front...)
	apiFront, aerr := n.apiFront.File()
	if err = errors.Join(err, aerr); err != nil {
		return nil, "", fmt.Errorf("pass the listeners on: %w", err)
	}
	add(socketAPI, apiFront)
	elders, err := n.elders.files()
	add(socketElder, elders...)
	if err != nil {
		return nil, "", err
	}
	reader, writer, err := handover.Mailbox()
	if err != nil {
		return nil, "", err
	}
	add(socketElder, reader)
	defer writer.Close()
	h := &heir{}
	if h.report, err = net.FileConn(writer); err != nil {
		return nil, "", err
	}
	if h.Heir, err = handover.Start(cmd, sockets); err == nil {
		if version, err = h.Ready(ctx); err != nil {
			h.Kill()
		}
	}
	if err != nil {
		h.report.Close()
		return nil, "", err
	}
	return h, version, nil
}

// passOn waits for an heir and has it take over. retire ends everything of this
// generation but the proxy, and returns when it has ended.
func (n *Node) passOn(ctx context.Context, retire func()) error {
	var h *heir
	select {
	case <-ctx.Done():
		return nil
	case h = <-n.heirs:
	}
	n.retired.Store(true)
	last := will{Gossip: n.addrs.Gossip, Sync: n.addrs.Sync}
	retire()
	n.elders.close()
	if err := n.closeLive(); err != nil {
		n.log.Error().Err(err).Msg("upgrading: the database could not be closed in order")
	}
	n.lock.release()
	for {
		err := n.install(ctx, h, last)
		if err == nil {
			break
		}
		n.log.Error().Err(err).Msg("upgrading: taken back, by the binary that runs; clients are served with what was known")
		for h = nil; h == nil; {
			select {
			case <-ctx.Done():
				return nil // told to end: with nobody to take over this is like any end
			case <-time.After(heirAgain):
			}
			if h, _, err = n.beget(ctx, itself(n.opts.Successor())); err != nil {
				n.log.Error().Err(err).Msg("upgrading: not taken back yet, tried again")
			}
		}
	}
	notify(fmt.Sprintf("MAINPID=%d", h.PID))
	set := settings(n.cfg)
	if set.Drain = n.cfg.UpgradeDrain; set.Drain == 0 {
		set.Drain = untilTheLast
	}
	n.server.Configure(set)
	n.server.GiveAway()
	n.log.Info().Int("pid", h.PID).Int64("connections", n.server.Active()).Msg("upgraded: the new process serves, this one drains")
	n.end()
	n.reportTo(h.report)
	return nil
}

// install has the heir take over, and says what came of it.
func (n *Node) install(ctx context.Context, h *heir, last will) error {
	ctx, cancel := context.WithTimeout(ctx, servingWithin)
	defer cancel()
	err := h.Give(last)
	if err == nil {
		err = h.Serving(ctx)
	}
	if err != nil {
		h.Kill()
		h.report.Close()
	}
	return err
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
	defer conn.Close()
	aborted := n.aborted
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
		select {
		case <-time.After(reportEvery):
		case <-aborted:
			aborted = nil
			n.server.Kill()
		}
	}
}

// succeed tells the generation before, if there is one, that this one could
// begin, and waits until that has let go.
func (n *Node) succeed(ctx context.Context) error {
	estate := n.opts.Estate
	if !estate.Succeeds() {
		return nil
	}
	if err := estate.Ready(n.opts.Version); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, servingWithin)
	defer cancel()
	return estate.Await(ctx, &n.will)
}

// Retire makes a generation that drains for an upgrade end within the usual
// time. It says whether this is one.
func (n *Node) Retire() bool {
	if !n.retired.Load() {
		return false
	}
	time.AfterFunc(n.cfg.Drain, n.Abort)
	return true
}
