package gossip

import (
	"encoding/binary"
	"slices"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// A POP tells each peer which tables its records may be of, before the first
// one and whenever another table has come up: a newer edgeproxy's are kept and
// passed on by those that do not know them. What nobody declared is refused.

// maxTables are declared at most, also by a peer; further ones are refused.
const maxTables = 256

type tablesFrame struct{ names []string }

func (f tablesFrame) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(f.names)))
	for _, name := range f.names {
		b = appendString(b, name)
	}
	return b
}

func decodeTables(b []byte) (f tablesFrame, err error) {
	r := &reader{b: b}
	for range r.count(2) {
		f.names = append(f.names, r.name(crdt.MaxName))
	}
	return f, r.end("tables")
}

// declare puts what the peer has not been told of our tables before what is sent.
func (s *stream) declare(b []byte) []byte {
	if s.m.cfg.Tables == nil || s.protocol < protocolTables {
		return b
	}
	names := s.m.cfg.Tables()
	names = names[:min(len(names), maxTables)]
	if slices.Equal(names, s.saidTables) {
		return b
	}
	s.saidTables = slices.Clone(names)
	return append(appendFrame(nil, kindTables, tablesFrame{names}.append), b...)
}

func (s *stream) tookTables(f tablesFrame) error {
	declared := map[string]bool{}
	for _, name := range f.names[:min(len(f.names), maxTables)] {
		declared[name] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.declared = declared
	return nil
}

// tables are those that the peer has declared, nil where it does not do so.
func (s *stream) tables() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.declared
}

// knows says which of our rows the peer would have sent in a snapshot: of a
// table that it never heard of it says nothing by its silence. Who declares no
// tables is taken at what it sent.
func (s *stream) knows(seen map[crdt.Key]struct{}) func(table string) bool {
	tables := s.tables()
	if tables == nil {
		tables = map[string]bool{}
		for key := range seen {
			tables[key.Table] = true
		}
	}
	return func(table string) bool { return tables[table] }
}
