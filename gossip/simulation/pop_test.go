package simulation

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip"
	"github.com/edgeproxy/edgeproxy/gossip/identity"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/rs/zerolog"
)

// pop is one POP: what stays over restarts, and its present life. It joins the
// parts as node/mesh.go does, and has to be kept like it.
type pop struct {
	w        *world
	name, ip string
	join     []string
	skew     time.Duration // of its clock
	node     *identity.Node
	disk     *disk
	snapshot string
	failures tally

	changing chan struct{}    // size 1: held while keys change. A mutex would stop virtual time: it is held while SetTags waits
	keyring  identity.Keyring // of a POP that is off: its file
	roster   struct {
		sync.Mutex
		addrs map[string]string
	}

	writing sync.Mutex // local writes, so that they are published in order
	live    atomic.Pointer[life]
}

// life is one run of a POP.
type life struct {
	*pop
	nonce   string
	creds   *identity.Credentials
	ring    *membership.Ring
	streams *gossip.Mesh
	pins    pins
	began   time.Time
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

// tally counts the members that a POP has called failed, in what it logs.
type tally struct {
	n     atomic.Int64
	also  *zerolog.ConsoleWriter
	heard sync.Mutex
}

func (t *tally) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(`"status":"failed"`)) {
		t.n.Add(1)
	}
	if t.also != nil {
		t.heard.Lock()
		defer t.heard.Unlock()
		return t.also.Write(b)
	}
	return len(b), nil
}

// start begins a life and returns when the sockets are bound.
func (p *pop) start() {
	t := p.w.t
	t.Helper()
	l := &life{pop: p, began: time.Now(), nonce: fmt.Sprintf("%016x%s", time.Now().Add(p.skew).UnixNano(), p.name)}
	l.pins = pins{disk: p.disk, write: l.writeRow, more: make(chan struct{}, 1), fresh: map[string]string{}}
	p.disk.now = l.now
	host := p.w.net.Host(p.ip)
	log := zerolog.New(&p.failures).Level(zerolog.InfoLevel).With().Str("node", p.name).Timestamp().Logger()
	var err error
	check := func(what string) {
		if err != nil {
			t.Fatalf("%s: %s: %v", p.name, what, err)
		}
	}
	l.creds, err = identity.NewCredentials(p.name, p.node, p.keyring)
	check("credentials")
	l.streams, err = gossip.New(gossip.Config{
		Node: p.name, Nonce: l.nonce, Credentials: l.creds, Store: p.disk, Dial: host.Dial, Rand: p.w.float64,
		Now:     func() time.Time { return time.Now().Add(p.skew) },
		Keyring: func() []byte { return l.creds.Keyring().Encode() }, MergeKeyring: l.mergeKeys,
		Admit:    l.pins.admit,
		Conflict: func(c gossip.Conflict) { p.w.conflicts.Add(1) },
	}, log.With().Str("component", "mesh").Logger())
	check("streams")
	front, err := host.Listen(7947)
	check("listen")
	l.ring, err = membership.New(membership.Config{
		Node: p.name, Transport: host.Transport(7946), Join: p.join, Keys: l.gossipKeys(), Tags: l.tags(), Snapshot: p.snapshot,
	}, log)
	check("membership")

	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	l.cancel = cancel
	run := func(what string, f func() error) {
		l.done.Go(func() {
			if err := f(); err != nil {
				t.Errorf("%s: %s: %v", p.name, what, err)
			}
		})
	}
	run("membership", func() error { return l.ring.Run(ctx) })
	<-l.ring.Started()
	l.streams.SetPeers(p.peers())
	p.live.Store(l)
	run("streams", func() error { return l.streams.Run(ctx) })
	run("front", func() error { return l.streams.Serve(ctx, front) })
	l.done.Go(func() { l.follow(ctx) })
	l.done.Go(func() { l.tidy(ctx) })
	l.done.Go(func() { l.pins.run(ctx) })
}

// stop ends the present life, if any, as SIGTERM does: the others see a failure.
func (p *pop) stop() {
	if l := p.live.Swap(nil); l != nil {
		l.cancel()
		l.done.Wait()
		p.keyring = l.creds.Keyring()
	}
}

// now is mesh time as this POP sees it, in milliseconds since 1970.
func (l *life) now() int64 { return time.Now().Add(l.skew + l.streams.Offset()).UnixMilli() }

func (l *life) tags() map[string]string {
	var ids []string
	for _, k := range l.creds.Keyring().Live() {
		ids = append(ids, k.ID())
	}
	return map[string]string{"role": "edgeproxy", "region": "sa", membership.NonceTag: l.nonce, "sync": "7947", "keys": strings.Join(ids, ",")}
}

func syncAddr(m membership.Member) (string, bool) {
	port, err := strconv.ParseUint(m.Tags["sync"], 10, 16)
	if m.Tags["role"] != "edgeproxy" || err != nil || !m.Addr.IsValid() {
		return "", false
	}
	return netip.AddrPortFrom(m.Addr.Addr().Unmap(), uint16(port)).String(), true
}

// follow tells the roster and the streams who is there.
func (l *life) follow(ctx context.Context) {
	for {
		l.remember(l.ring.Members())
		l.streams.SetPeers(l.peers())
		select {
		case <-ctx.Done():
			return
		case <-l.ring.Conflicts():
			l.w.conflicts.Add(1)
		case <-l.ring.Changed():
		case <-time.After(10 * time.Second):
		}
	}
}

func (p *pop) remember(members []membership.Member) {
	p.roster.Lock()
	defer p.roster.Unlock()
	for _, m := range members {
		addr, ours := syncAddr(m)
		switch {
		case m.Self || !ours:
		case m.Status == membership.StatusLeft:
			delete(p.roster.addrs, m.Name)
		case m.Status == membership.StatusAlive:
			p.roster.addrs[m.Name] = addr
		}
	}
}

func (p *pop) peers() (all []gossip.Peer) {
	p.roster.Lock()
	defer p.roster.Unlock()
	for _, name := range slices.Sorted(maps.Keys(p.roster.addrs)) {
		all = append(all, gossip.Peer{Node: name, Addr: p.roster.addrs[name]})
	}
	return all
}

func (l *life) tidy(ctx context.Context) {
	every := time.NewTicker(500 * time.Millisecond)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
			l.disk.release()
		}
	}
}

func (l *life) gossipKeys() (keys [][]byte) {
	for _, k := range l.creds.Keyring().Live() {
		keys = append(keys, k.Gossip())
	}
	return keys
}

func (l *life) mergeKeys(document []byte) error {
	theirs, err := identity.DecodeKeyring(document)
	if err != nil {
		return err
	}
	return l.changeKeys(func(ours identity.Keyring) (identity.Keyring, error) { return ours.Merge(theirs), nil })
}

// changeKeys changes the keyring everywhere it is used.
func (l *life) changeKeys(change func(identity.Keyring) (identity.Keyring, error)) error {
	l.changing <- struct{}{}
	defer func() { <-l.changing }()
	ours := l.creds.Keyring()
	next, err := change(ours)
	if err != nil || next.Equal(ours) {
		return err
	}
	err = errors.Join(l.creds.SetKeyring(next), l.ring.SetKeys(l.gossipKeys()), l.ring.SetTags(l.tags()))
	l.streams.KeyringChanged()
	return err
}

func (p *pop) keys() identity.Keyring {
	if l := p.live.Load(); l != nil {
		return l.creds.Keyring()
	}
	return p.keyring
}

// lacking says which live members do not say that they accept a key.
func (p *pop) lacking(id string) (names []string) {
	for _, m := range p.live.Load().ring.Members() {
		if m.Status == membership.StatusAlive && !slices.Contains(strings.Split(m.Tags["keys"], ","), id) {
			names = append(names, m.Name)
		}
	}
	return names
}

// writeRow is a local write, published.
func (l *life) writeRow(key crdt.Key, column string, v crdt.Value) crdt.Record {
	l.writing.Lock()
	defer l.writing.Unlock()
	d := l.disk.write(key, column, v)
	l.streams.Publish(d)
	return d.Records[0]
}

func backend(id string) crdt.Key {
	return crdt.Key{Table: "backends", PK: crdt.PK(crdt.TextValue(id))}
}

// write sets a backend's weight and returns the row's stamp.
func (p *pop) write(id string, weight int) crdt.Stamp {
	return p.live.Load().writeRow(backend(id), "weight", crdt.IntValue(int64(weight))).Cell("weight").Stamp
}

// cell is zero where the row is not there.
func (p *pop) cell(id string) crdt.Cell {
	rec, _ := p.disk.get(backend(id))
	return rec.Cell("weight")
}

// committing is how long a write of the POP's own takes until it is stamped:
// a transaction, and Fold.
const committing = 10 * time.Millisecond

// pins are the keys under which POPs were first seen, as in node/pins.go.
type pins struct {
	disk  *disk
	write func(crdt.Key, string, crdt.Value) crdt.Record
	more  chan struct{} // size 1

	mu    sync.Mutex
	fresh map[string]string
}

func pinOf(node string) crdt.Key {
	return crdt.Key{Table: "pop_keys", PK: crdt.PK(crdt.TextValue(node))}
}

func (p *pins) known(node string) (string, bool) {
	rec, ok := p.disk.get(pinOf(node))
	if !ok {
		return "", false
	}
	key, ok := rec.Cell("public_key").Value.Any().(string)
	return key, ok
}

func (p *pins) admit(h gossip.Hello) error {
	key := base64.RawStdEncoding.EncodeToString(h.Key)
	p.mu.Lock()
	defer p.mu.Unlock()
	first, ok := p.known(h.Node)
	if !ok {
		first, ok = p.fresh[h.Node]
	}
	if ok && first != key {
		return fmt.Errorf("%s has another key than the POP that was first seen under this name", h.Node)
	}
	if !ok {
		p.fresh[h.Node] = key
		select {
		case p.more <- struct{}{}:
		default:
		}
	}
	return nil
}

func (p *pins) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.more:
		}
		time.Sleep(committing)
		p.mu.Lock()
		fresh := maps.Clone(p.fresh)
		clear(p.fresh)
		p.mu.Unlock()
		for node, key := range fresh {
			if _, ok := p.known(node); !ok {
				p.write(pinOf(node), "public_key", crdt.TextValue(key))
			}
		}
	}
}

// status is one line about a POP that a failing test prints.
func (p *pop) status() string {
	heads, sum, rows, held := p.disk.content()
	line := fmt.Sprintf("%s: %d rows (%s), %d held, heads %v", p.name, rows, sum.String()[:8], held, heads)
	l := p.live.Load()
	if l == nil {
		return line + ", off"
	}
	line += fmt.Sprintf(", mesh time %v off its clock; members", l.streams.Offset())
	for _, m := range l.ring.Members() {
		line += " " + m.Name + "=" + m.Status
	}
	line += "; streams"
	for _, s := range l.streams.Peers() {
		switch {
		case s.Connected:
			line += " " + s.Node
		default:
			line += fmt.Sprintf(" %s(none for %v: %s)", s.Node, time.Since(s.Since).Round(time.Millisecond), s.Err)
		}
	}
	if why := l.ring.Waiting(); why != "" {
		line += "; waits: " + why
	}
	return line + fmt.Sprintf("; %+v", l.streams.Stats())
}
