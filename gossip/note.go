package gossip

import (
	"slices"
)

// Note is what one POP tells another alone, now: of two with one key that wait
// to be sent the later one is. It may be lost with the stream.
type Note struct {
	Key  string
	Body []byte
}

// Bounds of a note.
const (
	maxNoteKey  = 256 // bytes
	MaxNoteBody = 512 << 10
	// noteBytes go out at a time, about, so that others come between.
	noteBytes = 64 << 10
)

// notes wait, in the order in which their keys first came.
type notes struct {
	keys   []string
	bodies map[string][]byte
}

// SendNote queues a note for the peer; nothing where there is no stream to it,
// or it is one that knows no notes. It never blocks.
func (m *Mesh) SendNote(peer string, n Note) {
	m.mu.Lock()
	var s *stream
	if p := m.peers[peer]; p != nil {
		s = p.stream
	}
	m.mu.Unlock()
	if s == nil || s.protocol < protocolNote || len(n.Key) > maxNoteKey || len(n.Body) > MaxNoteBody {
		return
	}
	s.mu.Lock()
	if s.notes.bodies == nil {
		s.notes.bodies = map[string][]byte{}
	}
	if _, waits := s.notes.bodies[n.Key]; !waits {
		s.notes.keys = append(s.notes.keys, n.Key)
	}
	s.notes.bodies[n.Key] = n.Body
	s.mu.Unlock()
	notify(s.wake)
}

// takeNotes adds some of the notes that wait.
func (s *stream) takeNotes(b []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, n, bytes := &s.notes, 0, 0
	for ; n < len(w.keys) && bytes < noteBytes; n++ {
		note := Note{Key: w.keys[n], Body: w.bodies[w.keys[n]]}
		bytes += len(note.Body)
		b = appendFrame(b, kindNote, note.append)
		delete(w.bodies, note.Key)
	}
	w.keys = slices.Delete(w.keys, 0, n)
	if len(w.keys) > 0 {
		notify(s.wake)
	}
	return b
}

func (s *stream) tookNote(n Note) error {
	if s.m.cfg.TookNote == nil {
		return nil
	}
	// One that makes no sense costs the records nothing: what it answers may
	// have come from somebody else.
	if err := s.m.cfg.TookNote(s.node, n); err != nil {
		s.m.stats.notesRefused.Add(1)
		if s.m.mayWarn(s.peer, "note") {
			s.m.log.Warn().Err(err).Str("peer", s.node).Str("note", n.Key).Msg("note refused")
		}
	}
	return nil
}

func (n Note) append(b []byte) []byte {
	return appendString(appendString(b, n.Key), string(n.Body))
}

// decodeNote leaves the body to its reader.
func decodeNote(b []byte) (n Note, err error) {
	r := &reader{b: b}
	n.Key = r.string(maxNoteKey)
	n.Body = []byte(r.string(MaxNoteBody))
	return n, r.end("note")
}
