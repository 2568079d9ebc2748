package main

import (
	"encoding/binary"
	"runtime"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/overlay"
)

// overhead of a frame: its own header and TLS's (RFC 8446 §5.2: header, content
// type, AEAD tag). Frames that go out together share the latter, so this is the
// most it can be. TCP and IP are not in it.
const overhead = 5 + 22

// row is one of a POP's ten-column table, changed by it.
func row(r *crdt.Replica, id string, ms int64, weight int) crdt.Delta {
	return r.Write(crdt.Key{Table: "backends", PK: crdt.PK(crdt.TextValue(id))}, crdt.At(ms), map[string]crdt.Value{
		"app": crdt.TextValue("myapp"), "region": crdt.TextValue("sa"), "wg_ip": crdt.TextValue("10.50.1.1"), "port": crdt.IntValue(8080),
		"healthy": crdt.IntValue(1), "weight": crdt.IntValue(int64(weight)), "soft_limit": crdt.IntValue(50), "hard_limit": crdt.IntValue(100),
		"deleted": crdt.IntValue(0),
	})
}

// epoch is when virtual time begins, in ms since 1970.
const epoch = 1_700_000_000_000

// beatBytes are those of a beat with eight counts, as many as a report has.
const beatBytes = 1 + 8 + 3 + 2 + 8 + 6 + (9 + 3 + 3 + 1) + 8*(10+2) + 6

func (m *message) size() uint64 {
	const name = 9 // of a POP, with its length
	n := uint64(overhead)
	entry := func(to uint32) { n += name + 1 + uint64(len(binary.AppendUvarint(nil, uint64(to)))) }
	switch m.kind {
	case push, pulled:
		return n + m.length + m.length/frameBytes*overhead
	case beat:
		return n + beatBytes
	case have:
		for _, h := range m.heads {
			entry(h.to)
		}
		return n
	case pull:
		for _, to := range m.all {
			entry(to)
		}
		return n
	}
	return n + 1 + name*uint64(len(m.origins))
}

// memory is what a POP's records take: a whole replica of so many rows, whose
// writers are all POPs, the heads of all its neighbours, and its trees.
func memory(rows, pops int) uint64 {
	before := allocated()
	names := make([]string, pops)
	r := crdt.NewReplica(crdt.Origin{Node: "gru-0", Epoch: 1})
	writers := make([]*crdt.Replica, pops)
	for i := range writers {
		names[i] = metros[i%len(metros)].code + "-" + string(rune('0'+i%10)) + string(rune('0'+i/10%10)) + string(rune('0'+i/100))
		writers[i] = crdt.NewReplica(crdt.Origin{Node: names[i], Epoch: 1})
	}
	for i := range rows {
		d := row(writers[i%pops], names[i%pops]+"/"+string(rune(0x4e00+i)), epoch, i)
		copied, _, err := crdt.DecodeDelta(d.Append(nil)) // its own memory, as from a stream
		if err != nil {
			panic(err)
		}
		r.Apply(copied)
	}
	writers = nil
	trees := overlay.NewTrees("gru-0")
	heads := []crdt.Heads{}
	for _, peer := range names[1 : 1+overlay.Degree(pops)] {
		trees.Up(peer)
		trees.Pruned(peer, names)
		heads = append(heads, r.Heads(), r.Heads()) // what it has, and what it knows that we have
	}
	after := allocated()
	runtime.KeepAlive(r)
	runtime.KeepAlive(trees)
	runtime.KeepAlive(heads)
	return after - before
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
