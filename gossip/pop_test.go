package gossip

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// start begins another life of the POP, and tells it who there is.
func (p *pop) start() {
	p.lab.t.Helper()
	p.life++
	p.cfg.Nonce = fmt.Sprintf("%s life %d", p.name, p.life)
	p.cfg.Life = uint64(p.life)
	p.cfg.Store = p.store
	m, err := New(p.cfg, p.lab.log.With().Str("node", p.name).Logger())
	if err != nil {
		p.lab.t.Fatal(err)
	}
	p.mesh = m
	ln, err := p.lab.net.Host(p.ip).Listen(7947)
	if err != nil {
		p.lab.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(p.lab.t.Context())
	p.cancel = cancel
	p.done.Go(func() { _ = m.Run(ctx) })
	p.done.Go(func() { _ = m.Serve(ctx, ln) })
	m.SetPeers(p.lab.roster())
}

func (p *pop) stop() {
	if p.cancel != nil {
		p.cancel()
		p.done.Wait()
		p.cancel = nil
	}
}

func backend(id string) crdt.Key {
	return crdt.Key{Table: "backends", PK: crdt.PK(crdt.TextValue(id))}
}

// write is a local write, published.
func (p *pop) write(id string, weight int) crdt.Delta {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.store.mu.Lock()
	d := p.store.replica.Write(backend(id), crdt.At(time.Now().UnixMilli()), map[string]crdt.Value{"weight": crdt.IntValue(int64(weight))})
	p.store.mu.Unlock()
	if p.mesh != nil {
		p.mesh.Publish(d)
	}
	return d
}

func (p *pop) delete(id string) {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.store.mu.Lock()
	d := p.store.replica.Delete(backend(id), crdt.At(time.Now().UnixMilli()))
	p.store.mu.Unlock()
	if p.mesh != nil {
		p.mesh.Publish(d)
	}
}

// weight is -1 where the row is not there.
func (p *pop) weight(id string) int64 {
	rec, ok := p.store.get(backend(id))
	if !ok || !rec.Live() {
		return -1
	}
	return rec.Cell("weight").Value.Any().(int64)
}

// rawPeer is a peer of the POP that the test speaks for, frame by frame.
type rawPeer struct {
	t      *testing.T
	conn   net.Conn
	frames *frameReader
}

func (r *rawPeer) send(b []byte) {
	_, _ = r.conn.Write(b)
}

// until reads frames up to one of that kind; nil when the stream ends first.
func (r *rawPeer) until(k kind) []byte {
	for {
		got, body, err := r.frames.next()
		if err != nil {
			if err != io.EOF {
				r.t.Logf("raw peer: %v", err)
			}
			return nil
		}
		if got == k {
			return body
		}
	}
}
