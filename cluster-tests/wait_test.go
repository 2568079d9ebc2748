package clustertests

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// soon is how long anything may take that should be done at once, on a machine
// that does much else.
const soon = time.Minute

// A condition is looked at each 3 ms, less often the longer it takes, and for a
// third of the time at most: the others need the machine, too.
const poll, slowPoll = 3 * time.Millisecond, 50 * time.Millisecond

// eventually waits until check is content.
func eventually(t testing.TB, within time.Duration, check func() error) {
	t.Helper()
	if err := waitFor(within, check); err != nil {
		t.Fatal(err)
	}
}

func waitFor(within time.Duration, check func() error) error {
	began := time.Now()
	for {
		looked := time.Now()
		err := check()
		if err == nil {
			return nil
		}
		took, waited := time.Since(looked), time.Since(began)
		if waited > within {
			return fmt.Errorf("waited %s: %w", within, err)
		}
		<-time.After(max(poll, min(waited/20, slowPoll), min(2*took, time.Second)))
	}
}

// logBuffer keeps what a process writes. Safe for concurrent use.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lines are those that hold all the words.
func (l *logBuffer) lines(words ...string) []string { return linesWith(l.String(), words...) }

func linesWith(text string, words ...string) []string {
	var found []string
	for line := range strings.Lines(text) {
		if holds(line, words) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

func holds(s string, words []string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(s, w) })
}

// says is nil where one line holds all the words.
func (l *logBuffer) says(words ...string) error {
	if len(l.lines(words...)) == 0 {
		return fmt.Errorf("no line of the log holds all of %q", words)
	}
	return nil
}

// expectLog fails the test where no line holds all the words, now or soon: the
// log comes through a pipe, later than what it tells of.
func (p *pop) expectLog(t testing.TB, words ...string) {
	t.Helper()
	if err := waitFor(soon, func() error { return p.log.says(words...) }); err != nil {
		t.Error(err)
	}
}

// digest is the log for a person: of the lines at level debug, which tell of
// every connection, only the last ones.
func (l *logBuffer) digest() string {
	const debugLines, most = 30, 32 << 10
	lines := strings.SplitAfter(l.String(), "\n")
	var kept []string
	seen := 0
	for _, line := range slices.Backward(lines) {
		if strings.Contains(line, `"level":"debug"`) {
			if seen++; seen > debugLines {
				continue
			}
		}
		kept = append(kept, line)
	}
	slices.Reverse(kept)
	text := strings.Join(kept, "")
	if len(text) > most {
		text = text[:most/2] + "\n…\n" + text[len(text)-most/2:]
	}
	return text
}
