package clustertests

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// skewClock has the POP look for its clock's error in a file from its next start
// on, where it changes at once. The file is not on its disk, which may be full.
func (p *pop) skewClock(t testing.TB, by string) error {
	file, given := strings.CutPrefix(p.setting("CLUSTERTESTS_SKEW"), "@")
	if !given {
		file = filepath.Join(t.TempDir(), "skew")
		p.set("CLUSTERTESTS_SKEW", "@"+file)
	}
	next := file + ".next" // a file that is read is always whole
	if err := os.WriteFile(next, []byte(by), 0o644); err != nil {
		return err
	}
	return os.Rename(next, file)
}

func (s *stage) latest(args []string) error {
	s.rec.mu.Lock()
	var last *write
	for i := range s.rec.writes {
		if w := &s.rec.writes[i]; w.row == args[0] && w.err == nil {
			last = w
		}
	}
	s.rec.mu.Unlock()
	if last == nil {
		return fmt.Errorf("nobody has written %s", args[0])
	}
	for _, p := range s.running() {
		rows, err := rowsOf(p)
		if err != nil {
			return err
		}
		if got, there := rows[args[0]]; !there && last.value != absent || there && got != last.value {
			return fmt.Errorf("%s has %d, want %d, which was written last%s", p.Node, got, last.value, s.rec.history(args[0]))
		}
	}
	return nil
}

func (s *stage) held(args []string) error {
	want, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	return s.each(args[:1], func(_ string, p *pop) error {
		st, err := look[api.Status](p, "status")
		if err == nil && st.Records.Quarantined != want {
			err = fmt.Errorf("%d rows wait, want %d", st.Records.Quarantined, want)
		}
		return err
	})
}

// beside asks the API and the command.
func (s *stage) beside(args []string) error {
	want, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	return s.each(args[:1], func(_ string, p *pop) error {
		st, err := look[api.Status](p, "status")
		if err != nil {
			return err
		}
		const close = 500 * time.Millisecond
		if off := time.Duration(-st.Offset * float64(time.Millisecond)); (off - want).Abs() > close {
			return fmt.Errorf("its clock is %v beside the mesh's, want %v", off, want)
		}
		if want == 0 {
			return nil
		}
		out, err := p.command("status").Output()
		if err != nil {
			return err
		}
		var off float64
		for _, line := range linesWith(string(out), "ms beside the mesh's") {
			_, text, _ := strings.Cut(line, "clock")
			if _, err := fmt.Sscanf(text, "%f ms", &off); err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
		}
		if (time.Duration(off*float64(time.Millisecond)) - want).Abs() > close {
			return fmt.Errorf("edgeproxy status does not say that its clock is %v beside the mesh's:\n%s", want, out)
		}
		return nil
	})
}
