// Package lab shows the main job of edgeproxy on real traffic, on this machine.
//
//	report, err := lab.Run(ctx, lab.Config{Duration: 10 * time.Second}, func(r *lab.Report) { fmt.Print(r.Table()) })
//	report.OK() // every client went to its region, no connection failed
//
// It runs one POP, three regions of backends and clients whose addresses, sent
// by PROXY header, are public ones from all continents, all in this process on
// loopback. The database is made on the spot, in a directory that is gone when
// Run returns, as is everything else. It measures nothing that a benchmark
// should: clients, POP and backends share the processors.
package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/geo/mmdb"
	"github.com/edgeproxy/edgeproxy/internal/mockbackend"
	"github.com/edgeproxy/edgeproxy/node"
	"github.com/rs/zerolog"
)

// Config of a run. Zero values are the defaults.
type Config struct {
	Duration time.Duration // of the traffic; 0: 10 s
	Users    int           // connections at a time; 0: 40
	Region   string        // of the POP; empty: sa
	Log      zerolog.Logger
}

// regions have backends in the lab, as in the seed's: three each, the first
// one with twice the weight.
var regions = []geo.Region{geo.SA, geo.US, geo.EU}

// mostUsers fit below the hard limits of one region, which serves more than
// its share: clients of regions without backends go to the POP's own.
const mostUsers = 200

// Run plays the traffic and returns what it saw; progress is called about
// once a second with what it has seen so far. When ctx ends early, the report
// is about the traffic until then.
func Run(ctx context.Context, cfg Config, progress func(*Report)) (*Report, error) {
	if cfg.Duration <= 0 {
		cfg.Duration = 10 * time.Second
	}
	if cfg.Users <= 0 {
		cfg.Users = 40
	}
	if cfg.Region == "" {
		cfg.Region = string(geo.SA)
	}
	if !slices.Contains(regions, geo.Region(cfg.Region)) {
		return nil, fmt.Errorf("region %q has no backends in the lab: choose one of %v", cfg.Region, regions)
	}
	if cfg.Users > mostUsers {
		return nil, fmt.Errorf("%d users at a time would reach the backends' hard limits, and spill over: at most %d", cfg.Users, mostUsers)
	}
	dir, err := os.MkdirTemp("", "edgeproxy-lab-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)

	scene, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()

	table, err := geo.NewTable(nil)
	if err != nil {
		return nil, err
	}
	resolver, err := mmdb.New(mmdb.Config{}, table)
	if err != nil {
		return nil, err
	}
	from, err := clients(resolver)
	if err != nil {
		return nil, err
	}
	n, err := startPOP(scene, &running, dir, cfg)
	if err != nil {
		return nil, err
	}
	if err := startBackends(scene, &running, n); err != nil {
		return nil, err
	}

	t := traffic{pop: n.Addrs().Listen, from: from, resolver: resolver, table: table, home: geo.Region(cfg.Region)}
	t.tally = tally{clients: map[string]*ClientCount{}, tried: map[string]bool{}}
	report := t.play(ctx, cfg, func(r *Report) {
		r.Node, r.Region = n.Name(), cfg.Region
		progress(r)
	})
	report.Node, report.Region = n.Name(), cfg.Region
	return report, nil
}

// startPOP runs a POP with a new database in dir.
func startPOP(ctx context.Context, running *sync.WaitGroup, dir string, lab Config) (*node.Node, error) {
	cfg, _, err := config.Load(nil, []string{
		"EDGEPROXY_DB_PATH=" + filepath.Join(dir, "routing.db"),
		"EDGEPROXY_REGION=" + lab.Region,
		"EDGEPROXY_LISTEN_ADDR=127.0.0.1:0",
		"EDGEPROXY_API_ADDR=127.0.0.1:0",
		"EDGEPROXY_GOSSIP_ADDR=127.0.0.1:0",
		"EDGEPROXY_SYNC_ADDR=127.0.0.1:0",
		"EDGEPROXY_PROXY_PROTOCOL=on",
		"EDGEPROXY_TRUSTED_PROXIES=127.0.0.1",
		"EDGEPROXY_BINDING_TTL_SECS=1", // so that load, not affinity, spreads the few clients
		"EDGEPROXY_DRAIN_SECS=0",
	}, nil)
	if err != nil {
		return nil, err
	}
	n := node.New(cfg, node.Options{Version: "lab"}, lab.Log)
	failed := make(chan error, 1)
	running.Go(func() { failed <- n.Run(ctx) })
	select {
	case <-n.Ready():
		return n, nil
	case err := <-failed:
		return nil, fmt.Errorf("start a POP: %w", err)
	}
}

// startBackends runs three backends in each region and tells the POP of them.
func startBackends(ctx context.Context, running *sync.WaitGroup, n *node.Node) error {
	for _, region := range regions {
		for i := 1; i <= 3; i++ {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return fmt.Errorf("start a backend: %w", err)
			}
			addr := ln.Addr().String()
			id, code := fmt.Sprintf("%s-node-%d", region, i), string(region)
			b, err := mockbackend.NewTCP(mockbackend.Config{ID: id, Region: code})
			if err != nil {
				return errors.Join(err, ln.Close())
			}
			running.Go(func() { _ = b.Serve(ctx, ln) }) // ends with ctx
			app, weight, soft, hard := "myapp", int64(1), int64(50), int64(100)
			if i == 1 {
				weight = 2
			}
			_, err = n.CreateBackend(ctx, api.Patch{ID: &id, App: &app, Region: &code, Addr: &addr, Weight: &weight, SoftLimit: &soft, HardLimit: &hard})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// traffic plays users from everywhere.
type traffic struct {
	pop      string
	from     []client
	resolver *mmdb.Resolver
	table    *geo.Table
	home     geo.Region // of the POP

	mu    sync.Mutex
	tally tally
}

// expected is the region that should serve a client: its own where that has
// backends, else the POP's.
func (t *traffic) expected(c client) geo.Region {
	for _, r := range regions {
		if r == c.place.Region {
			return r
		}
	}
	return t.home
}

func (t *traffic) play(ctx context.Context, cfg Config, progress func(*Report)) *Report {
	began := time.Now()
	// Not WithTimeout: a dial's own clock would see the deadline a moment
	// before ctx ends, and report the end of the lab as a failure.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer time.AfterFunc(cfg.Duration, cancel).Stop()
	var users sync.WaitGroup
	for user := range cfg.Users {
		users.Go(func() { t.user(ctx, user) })
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			progress(t.report(began))
		case <-ctx.Done():
			users.Wait()
			return t.report(began)
		}
	}
}

// user connects again and again, each time from another country.
func (t *traffic) user(ctx context.Context, i int) {
	for ; ctx.Err() == nil; i++ {
		c := t.from[i%len(t.from)]
		addr := c.neighbour(t.resolver, byte(rand.IntN(200)+1))
		v := c.call(ctx, t.pop, addr, time.Duration(rand.IntN(200))*time.Millisecond)
		if v.err != nil && ctx.Err() != nil {
			return // cut by the end of the lab
		}
		t.mu.Lock()
		t.tally.add(v, t.table, t.expected(c))
		t.mu.Unlock()
	}
}

func (t *traffic) report(began time.Time) *Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.tally.report()
	r.Seconds = time.Since(began).Seconds()
	return &r
}
