package lab

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/node"
	"github.com/rs/zerolog"
)

// regions are those of the POPs, in the order in which they come.
var regions = []geo.Region{geo.SA, geo.US, geo.EU, geo.AP}

// app is what the lab's clients ask for; its beacon belongs to none.
const app = "myapp"

// pop is one POP: whole, with sockets, a directory and a routing.db of its own.
type pop struct {
	name   string
	index  int // in the order of their start
	region geo.Region
	at     geo.Vector
	node   *node.Node
	db     *sql.DB // as another program would have it open
	listen string
	gossip string
}

// popPlan is what the POPs of a lab have in common.
type popPlan struct {
	dir   string
	key   string // of the mesh
	links *links
	log   zerolog.Logger
}

func newClusterKey() string {
	var secret [32]byte
	rand.Read(secret[:])
	return base64.StdEncoding.EncodeToString(secret[:])
}

// popName names the POPs by their regions: pop-sa, and pop-sa-2 for a second one.
func popName(i int) (string, geo.Region) {
	region := regions[i%len(regions)]
	name := "pop-" + string(region)
	if i >= len(regions) {
		name += fmt.Sprintf("-%d", i/len(regions)+1)
	}
	return name, region
}

// start runs the i-th POP until ctx ends, and returns when it serves. What
// ends it early goes to ended.
func (p popPlan) start(ctx context.Context, running *sync.WaitGroup, i int, join string, ended func(error)) (*pop, error) {
	name, region := popName(i)
	dir := filepath.Join(p.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	path := filepath.Join(dir, "routing.db")
	cfg, _, err := config.Load(nil, []string{
		"EDGEPROXY_DB_PATH=" + path, "EDGEPROXY_NODE_ID=" + name, "EDGEPROXY_REGION=" + string(region), "EDGEPROXY_APP=" + app,
		"EDGEPROXY_LISTEN_ADDR=127.0.0.1:0", "EDGEPROXY_API_ADDR=127.0.0.1:0",
		"EDGEPROXY_GOSSIP_ADDR=127.0.0.1:0", "EDGEPROXY_SYNC_ADDR=127.0.0.1:0",
		"EDGEPROXY_CLUSTER_KEY=" + p.key, "EDGEPROXY_JOIN=" + join,
		"EDGEPROXY_PROXY_PROTOCOL=on", "EDGEPROXY_TRUSTED_PROXIES=127.0.0.1",
		"EDGEPROXY_BINDING_TTL_SECS=0", // load, not affinity, is to spread the few clients
		"EDGEPROXY_DRAIN_SECS=0",
	}, nil)
	if err != nil {
		return nil, err
	}
	at, _ := geo.RegionPosition(region)
	n := node.New(cfg, node.Options{Version: "lab", Via: p.links.via(ctx, name)}, p.log.With().Str("pop", name).Logger())
	failed := make(chan error, 1)
	running.Go(func() {
		err := n.Run(ctx)
		if err == nil && ctx.Err() == nil {
			err = errors.New("it ended by itself")
		}
		if err != nil {
			ended(fmt.Errorf("%s: %w", name, err))
		}
		failed <- err
	})
	select {
	case <-n.Ready():
	case err := <-failed:
		return nil, fmt.Errorf("start %s: %w", name, errors.Join(err, ctx.Err()))
	}
	db, err := openSQL(path)
	if err != nil {
		return nil, err
	}
	a := n.Addrs()
	p.links.own(name, a.Gossip, a.Sync)
	return &pop{name: name, index: i, region: region, at: at.Vector(), node: n, db: db, listen: a.Listen, gossip: a.Gossip}, nil
}

// ready waits until the POP would be announced: it has all that another knows.
func (p *pop) ready(ctx context.Context) error {
	_, err := until(ctx, mostWait, func() bool {
		st, err := p.node.Status(ctx)
		return err == nil && st.Ready
	})
	if err != nil {
		return fmt.Errorf("%s is not ready: %w", p.name, err)
	}
	return nil
}

// sees is the backend in the POP's routing picture; zero where it has none.
func (p *pop) sees(ctx context.Context, id string) api.Backend {
	b, _ := p.node.Backend(ctx, id)
	return b
}

// mostWait bounds every wait for what should take far less, on machines with
// more to do than a lab.
const mostWait = 30 * time.Second

var errLate = errors.New("waited " + mostWait.String())

// until polls for a condition and says how long it took.
func until(ctx context.Context, most time.Duration, done func() bool) (time.Duration, error) {
	began := time.Now()
	for {
		switch {
		case done():
			return time.Since(began), nil
		case time.Since(began) > most:
			return most, errLate
		case !pause(ctx, time.Millisecond):
			return time.Since(began), ctx.Err()
		}
	}
}
