package clustertests

import (
	"bufio"
	"bytes"
	"compress/lzw"
	"crypto/aes"
	"crypto/cipher"
	crand "crypto/rand"
	"crypto/tls"
	"encoding/base64"
	wire "encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// Kinds of frames on a record stream.
const (
	frameHello = 1
	frameDelta = 2
)

// stream is one on which the traitor was let in.
type stream struct {
	*tls.Conn
	ended chan struct{} // closed when the POP has ended it
}

// enter is a traitor's stream with a POP, which it never answers.
func (x *traitor) enter(t testing.TB, p *pop) *stream {
	t.Helper()
	raw, err := net.DialTimeout("tcp", local(p.Sync), soon)
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{Conn: tls.Client(raw, x.creds.ClientTLS(p.Node)), ended: make(chan struct{})}
	if _, err := s.Write(x.hello(x.creds.Node())); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(s.Conn)
	var head [5]byte
	if _, err := io.ReadFull(in, head[:]); err != nil || head[4] != frameHello {
		t.Fatalf("not let in by %s: kind %d, %v", p.Node, head[4], err)
	}
	go func() {
		defer close(s.ended)
		_, _ = io.Copy(io.Discard, in)
	}()
	t.Cleanup(func() {
		raw.Close()
		<-s.ended
	})
	return s
}

// tell sends records as if they had just been written.
func (s *stream) tell(d crdt.Delta) error {
	_, err := s.Write(frame(frameDelta, d.Append([]byte{0, 0, 0}))) // of no pull, no snapshot, no repair
	return err
}

func key(table, id string) crdt.Key {
	return crdt.Key{Table: table, PK: crdt.PK(crdt.TextValue(id))}
}

func nowTime() crdt.Time { return crdt.At(time.Now().UnixMilli()) }

// claims are a backend's columns.
func claims(more ...string) map[string]crdt.Value {
	all := map[string]crdt.Value{
		"app": crdt.TextValue("myapp"), "region": crdt.TextValue("us"), "wg_ip": crdt.TextValue("127.0.0.1"), "port": crdt.IntValue(9),
		"healthy": crdt.IntValue(0), "weight": crdt.IntValue(1), "soft_limit": crdt.IntValue(10), "hard_limit": crdt.IntValue(10), "deleted": crdt.IntValue(0),
	}
	for _, name := range more {
		all[name] = crdt.TextValue("much")
	}
	return all
}

// TestLiar: a peer with the cluster key sends what it must not. Each thing is
// refused by its name, or bounded; what stands beside it in the same frame is
// taken, and the other POPs get none of it.
func TestLiar(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 3, unchecked)
	p, other := m.pops[0], m.pops[1]
	other.sql(t, insert(startBackend(t, "sa-1", "sa").row()))
	settle(t, converged, m.pops...)
	before := p.resident(t)
	evil := newTraitor(t, m.key, "evil")
	s := evil.enter(t, p)

	own := crdt.NewReplica(crdt.Origin{Node: "evil", Epoch: 1})
	theirs := crdt.NewReplica(crdt.Origin{Node: other.Node, Epoch: 4_000_000_000})
	var d crdt.Delta
	add := func(r *crdt.Replica, k crdt.Key, values map[string]crdt.Value) {
		one := r.Write(k, nowTime(), values)
		d.Records, d.Ranges = append(d.Records, one.Records...), append(d.Ranges, one.Ranges...)
	}
	add(own, key("payroll", "x"), claims())
	long := claims()
	long["app"] = crdt.TextValue(strings.Repeat("x", 40<<10))
	add(own, key("backends", "too-long"), long)
	add(theirs, key("pops", other.Node), map[string]crdt.Value{"connections": crdt.IntValue(1 << 40)})
	add(theirs, key("backend_load", other.Node), map[string]crdt.Value{"backend": crdt.TextValue("sa-1"), "connections": crdt.IntValue(1 << 40)})
	add(own, key("backends", "beside"), claims("salary"))
	if err := s.tell(d); err != nil {
		t.Fatal(err)
	}
	everywhere(t, "SELECT id, soft_limit FROM backends WHERE id <> 'sa-1'", "beside|10", m.pops...)
	p.expectLog(t, `"level":"warn"`, "records refused", `"peer":"evil"`, "payroll", "too-long", "pops "+`\"`+other.Node, "backend_load")
	for _, x := range m.pops {
		if got := x.sql(t, "SELECT count(*) FROM sqlite_schema WHERE name='payroll'; SELECT count(*) FROM pragma_table_info('backends') WHERE name='salary'; SELECT max(connections) < 1000 FROM pops"); got != "0\n0\n1\n" {
			t.Errorf("%s: table, column, connections: %q", x.Node, got)
		}
	}

	packet := bomb(t, m.key)
	for range 20 {
		if err := throwUDP(local(p.Gossip), packet); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.Close() // it may have been silent for too long by now
	s = evil.enter(t, p)
	m.flood(t, s, own, before)
	_ = s.Close() // or it would be one of them for as long as it may be silent
	for _, x := range m.pops {
		if x.log.says("panic") == nil {
			t.Errorf("%s panicked", x.Node)
		}
		if x.log.says("decompressed message") == nil {
			t.Errorf("%s unpacked a bomb", x.Node)
		}
	}
	together(t, m.pops...)
	goesOn(t, "after", m.pops...)
	if wanted("long") {
		evil.enter(t, p).silent(t)
	}
}

// flood has the liar write as many rows as it can while the others go on: their
// writes arrive, clients are served, and memory stays within what rows take.
func (m *mesh) flood(t *testing.T, s *stream, liar *crdt.Replica, before int) {
	t.Helper()
	rows := often(3_000, 200_000)
	p, other := m.pops[0], m.pops[1]
	var flood sync.WaitGroup
	defer flood.Wait()
	done := make(chan struct{})
	flood.Go(func() {
		defer close(done)
		var d crdt.Delta
		for i := range rows {
			one := liar.Write(key("backends", fmt.Sprintf("flood-%07d", i)), nowTime(), claims())
			d.Records, d.Ranges = append(d.Records, one.Records...), append(d.Ranges, one.Ranges...)
			if len(d.Records) == 500 {
				if err := s.tell(d); err != nil {
					t.Errorf("let go after %d rows: %v", i, err)
					return
				}
				d = crdt.Delta{}
			}
		}
	})
	var took []time.Duration
	for flooding := true; flooding; {
		select {
		case <-done:
			flooding = false
		default:
		}
		id := fmt.Sprintf("honest-%d", len(took))
		began := time.Now()
		other.sql(t, "INSERT INTO backends (id, region, wg_ip, port, healthy) VALUES ('"+id+"', 'us', '10.9.9.9', 80, 0)")
		everywhere(t, "SELECT count(*) FROM backends WHERE id='"+id+"'", "1", m.pops...)
		took = append(took, time.Since(began))
		for _, x := range m.pops {
			if err := x.goesTo("", "sa-1"); err != nil {
				t.Errorf("%s, meanwhile: %v", x.Node, err)
			}
		}
	}
	everywhere(t, "SELECT count(*) FROM backends WHERE id LIKE 'flood-%'", fmt.Sprint(rows), m.pops...)
	after := p.resident(t)
	t.Logf("%d rows of a liar; meanwhile others' rows were everywhere after %s; memory %d MB, then %d MB", rows, quantiles(took), before>>20, after>>20)
	if most := before + 128<<20 + rows*4000; after > most && !raceDetector {
		t.Errorf("memory grew from %d to %d MB", before>>20, after>>20)
	}
}

// silent wants the POP to end the stream of one who says nothing for long.
func (s *stream) silent(t *testing.T) {
	t.Helper()
	began := time.Now()
	select {
	case <-s.ended:
		t.Logf("a stream without a word was ended after %s", time.Since(began).Round(time.Second))
	case <-time.After(soon):
		t.Error("a peer that says nothing is kept for ever")
	}
}

// bomb is a packet of membership's, of whoever has the key, that is 100 MB once
// it is unpacked.
func bomb(t testing.TB, clusterKey string) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := lzw.NewWriter(&packed, lzw.LSB, 8)
	zeros := make([]byte, 1<<20)
	for packed.Len() < 55_000 {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// memberlist: its type, and as msgpack {"Algo": 0, "Buf": packed}.
	body := append([]byte{9, 0x82, 0xa4}, "Algo\x00\xa3Buf\xda"...)
	body = append(wire.BigEndian.AppendUint16(body, uint16(packed.Len())), packed.Bytes()...)
	secret, err := base64.StdEncoding.DecodeString(clusterKey)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := make([]byte, gcm.NonceSize())
	crand.Read(nonce)
	return gcm.Seal(append([]byte{1}, nonce...), nonce, body, nil) // version 1: no padding
}
