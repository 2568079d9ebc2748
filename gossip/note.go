package gossip

import (
	"slices"
	"time"
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
	maxCalls  = 1024 // notes that wait for a stream to be opened
)

// notes wait, in the order in which their keys first came.
type notes struct {
	keys   []string
	bodies map[string][]byte
}

// SendNote queues a note for the peer; nothing where there is no stream to it,
// or it is one that knows no notes. In a mesh that is not a full one a stream is
// opened for it. It never blocks.
func (m *Mesh) SendNote(peer string, n Note) {
	if len(n.Key) > maxNoteKey || len(n.Body) > MaxNoteBody {
		return
	}
	m.mu.Lock()
	s := m.callLocked(peer, n, time.Now())
	m.mu.Unlock()
	if s == nil || s.protocol < protocolNote {
		return
	}
	s.mu.Lock()
	s.notes.add(n)
	s.mu.Unlock()
	notify(s.wake)
}

func (w *notes) add(n Note) {
	if w.bodies == nil {
		w.bodies = map[string][]byte{}
	}
	if _, waits := w.bodies[n.Key]; !waits {
		w.keys = append(w.keys, n.Key)
	}
	w.bodies[n.Key] = n.Body
}

// callLocked is the stream to the peer. Where there is none and should be none
// otherwise, it is called, and the note waits.
func (m *Mesh) callLocked(peer string, n Note, now time.Time) *stream {
	p := m.peers[peer]
	if p == nil {
		return nil
	}
	if m.large {
		m.openLocked(p, now)
		if _, waits := p.notes.bodies[n.Key]; p.stream == nil && (waits || len(p.notes.keys) < maxCalls) {
			p.notes.add(n)
		}
	}
	return p.stream
}

// openLocked has a stream to the peer opened, or kept, for Config.Forget.
func (m *Mesh) openLocked(p *peer, now time.Time) {
	again := now.Sub(p.called) < m.cfg.Forget
	if p.called = now; !again {
		p.notes = notes{} // what waited is as old as that
		m.rechooseLocked()
	}
}

// giveNotes leaves what waits to another stream. It is called with Mesh.mu.
func (s *stream) giveNotes(w *notes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range s.notes.keys {
		w.add(Note{Key: key, Body: s.notes.bodies[key]})
	}
	s.notes = notes{}
}

// moveNotes has what waited for the stream sent. It is called with Mesh.mu.
func (s *stream) moveNotes(w *notes) {
	if s.protocol >= protocolNote {
		s.mu.Lock()
		for _, key := range w.keys {
			s.notes.add(Note{Key: key, Body: w.bodies[key]})
		}
		s.mu.Unlock()
	}
	*w = notes{}
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
	s.m.mu.Lock()
	s.idle = time.Now() // the peer needs it, were there nothing to answer
	s.m.mu.Unlock()
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
