package membership

import (
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/rs/zerolog"
)

// A kind of warning may be logged burst times and then once each pause: whoever
// can send packets to the port can make memberlist warn.
const (
	burst = 5
	pause = time.Minute
	kinds = 32 // told apart; the rest count as one
)

// logWriter turns the text that serf and memberlist log, "[WARN] serf: text",
// into levels: their errors and warnings are warnings, as the mesh heals them
// or the caller learns of them in another way; all else is for debugging.
type logWriter struct {
	log zerolog.Logger

	mu     sync.Mutex
	counts map[string]*quota
}

// quota is what one kind of warning may still log.
type quota struct {
	left  int
	since time.Time // when left was last topped up
	held  int       // not logged since the last that was
}

func newLogWriter(log zerolog.Logger) *logWriter {
	return &logWriter{log: log, counts: make(map[string]*quota)}
}

// Write takes one line, as log.Logger hands it.
func (w *logWriter) Write(b []byte) (int, error) {
	level, component, text := parseLine(string(b))
	if level != zerolog.WarnLevel {
		w.log.Debug().Str("library", component).Str("text", text).Msg("gossip library")
		return len(b), nil
	}
	if held, ok := w.allow(kind(text), time.Now()); ok {
		e := w.log.Warn().Str("library", component).Str("text", text)
		if held > 0 {
			e = e.Int("held_back", held)
		}
		e.Msg("gossip library")
	}
	return len(b), nil
}

func (w *logWriter) allow(kind string, now time.Time) (held int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.counts[kind]
	if q == nil {
		if len(w.counts) >= kinds {
			kind = ""
		}
		if q = w.counts[kind]; q == nil {
			q = &quota{left: burst, since: now}
			w.counts[kind] = q
		}
	}
	if more := int(now.Sub(q.since) / pause); more > 0 {
		q.left, q.since = min(burst, q.left+more), now
	}
	if q.left == 0 {
		q.held++
		return 0, false
	}
	q.left--
	held, q.held = q.held, 0
	return held, true
}

// parseLine reads "[LEVEL] component: text"; what lacks a part gets a default.
func parseLine(line string) (level zerolog.Level, component, text string) {
	level, component, text = zerolog.DebugLevel, "gossip", strings.TrimSpace(line)
	if rest, ok := strings.CutPrefix(text, "["); ok {
		if name, rest, ok := strings.Cut(rest, "]"); ok {
			text = strings.TrimSpace(rest)
			switch name {
			case "WARN", "ERR", "ERROR":
				level = zerolog.WarnLevel
			}
		}
	}
	if strings.HasSuffix(text, "Shutdown without a Leave") {
		level = zerolog.DebugLevel // a restart is nothing to look at
	}
	for _, c := range []string{"serf", "memberlist"} {
		if rest, ok := strings.CutPrefix(text, c+":"); ok {
			return level, c, strings.TrimSpace(rest)
		}
	}
	return level, component, text
}

// kind is the part of the text that does not vary: its first three words,
// without any that carries a digit or a quote.
func kind(text string) string {
	var words []string
	for _, w := range strings.Fields(text) {
		if strings.ContainsFunc(w, func(r rune) bool { return unicode.IsDigit(r) || r == '\'' || r == '"' }) {
			continue
		}
		if words = append(words, w); len(words) == 3 {
			break
		}
	}
	return strings.Join(words, " ")
}
