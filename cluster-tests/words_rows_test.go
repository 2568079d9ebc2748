package clustertests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Rows of scenarios are backends that get no clients, of this app. Their
// weight is the value that tells one write from another.
const scenarioApp = "w"

// put writes a row by sqlite3 or by API, like somebody who does not know
// whether it is there.
func put(p *pop, row string, value int, sqlite bool) error {
	if sqlite {
		return p.write(fmt.Sprintf("INSERT INTO backends VALUES ('%s','%s','sa','127.0.0.1',9,0,%d,10,0,0) ON CONFLICT (id) DO UPDATE SET weight=excluded.weight",
			row, scenarioApp, value))
	}
	err := p.changeSoon("POST", "backends", fmt.Sprintf(`{"id":"%s","app":"%s","region":"sa","addr":"127.0.0.1:9","healthy":false,"weight":%d,"soft_limit":10}`,
		row, scenarioApp, value), http.StatusCreated)
	if errors.Is(err, errConflict) {
		err = p.changeSoon("PATCH", "backends/"+row, fmt.Sprintf(`{"weight":%d}`, value), http.StatusOK)
	}
	return err
}

func erase(p *pop, row string, sqlite bool) error {
	if sqlite {
		return p.write("DELETE FROM backends WHERE id='" + row + "'")
	}
	return p.changeSoon("DELETE", "backends/"+row, "", http.StatusNoContent)
}

var errConflict = errors.New("it is there")

// changeSoon is change that gives up soon.
func (p *pop) changeSoon(method, path, body string, want int) error {
	a, err := p.requestBy(hasty, method, "/api/v1/"+path, body)
	switch {
	case err != nil:
		return err
	case a.code == http.StatusConflict:
		return errConflict
	case a.code != want:
		return fmt.Errorf("%s %s: %d %s", method, path, a.code, strings.TrimSpace(a.body))
	}
	return nil
}

func (s *stage) write(args []string) error {
	return s.each(args[:1], func(name string, p *pop) error {
		value := s.rec.next()
		return s.rec.do(name, args[1], value, func() error { return put(p, args[1], value, value%2 == 0 || s.down[name]) })
	})
}

func (s *stage) remove(args []string) error {
	return s.each(args[:1], func(name string, p *pop) error {
		return s.rec.do(name, args[1], absent, func() error { return erase(p, args[1], true) })
	})
}

// writerPace is how often a POP is written to.
const writerPace = 40 * time.Millisecond

// startWriting has one writer for each POP, with rows of its own and some
// that all write to.
func (s *stage) startWriting([]string) error {
	if s.writers != nil {
		return errors.New("it is being written already")
	}
	ctx, end := context.WithCancel(context.Background())
	s.writers = &crowd{end: end}
	for i, name := range s.names() {
		p, r := s.pops[name], rand.New(rand.NewPCG(s.seed, uint64(100+i)))
		s.writers.all.Go(func() { s.writeOn(ctx, name, p, r) })
	}
	return nil
}

func (s *stage) writeOn(ctx context.Context, name string, p *pop, r *rand.Rand) {
	pace := time.NewTicker(writerPace)
	defer pace.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		row := fmt.Sprintf("%s-%03d", name, r.IntN(1+n/2))
		if r.IntN(4) == 0 {
			row = fmt.Sprintf("both-%02d", r.IntN(10))
		}
		sqlite := r.IntN(4) == 0
		if value := s.rec.next(); r.IntN(6) > 0 {
			_ = s.rec.do(name, row, value, func() error { return put(p, row, value, sqlite) }) // remembered, not judged
		} else {
			_ = s.rec.do(name, row, absent, func() error { return erase(p, row, sqlite) })
		}
		select {
		case <-ctx.Done():
		case <-pace.C:
		}
	}
}

func (s *stage) waitWrites(args []string) error {
	n, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return err
	}
	if s.writers == nil {
		return errors.New("nobody writes: writing comes first")
	}
	want := s.rec.acked.Load() + n
	return waitFor(soon, func() error {
		if got := s.rec.acked.Load(); got < want {
			return fmt.Errorf("%d writes are acknowledged, want %d", got, want)
		}
		return nil
	})
}

// rowsOf are the values of scenario rows on a POP.
func rowsOf(p *pop) (map[string]int, error) {
	text, err := p.query("SELECT id, weight FROM backends WHERE app='" + scenarioApp + "'")
	if err != nil {
		return nil, err
	}
	rows := map[string]int{}
	for line := range strings.Lines(text) {
		id, weight, _ := strings.Cut(strings.TrimSpace(line), "|")
		if rows[id], err = strconv.Atoi(weight); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", p.Node, line, err)
		}
	}
	return rows, nil
}

func (s *stage) noLoss([]string) error {
	var all []error
	for _, p := range s.running() {
		rows, err := rowsOf(p)
		if err != nil {
			return err
		}
		for i, fault := range s.rec.check(rows) {
			if i == 5 {
				all = append(all, errors.New("..."))
				break
			}
			all = append(all, fmt.Errorf("%s: %s", p.Node, fault))
		}
	}
	return errors.Join(all...)
}

func (s *stage) query(name, statement string) (string, error) {
	p, err := s.pop(name)
	if err != nil {
		return "", err
	}
	return p.query(statement)
}

func (s *stage) has(args []string) error {
	return s.each(args[:1], func(_ string, p *pop) error {
		got, err := p.query(args[1])
		if got = strings.Join(strings.Fields(got), " "); err == nil && got != args[2] {
			err = fmt.Errorf("%q, want %q", got, args[2])
		}
		return err
	})
}

func (s *stage) sees(args []string) error {
	p, err := s.pop(args[0])
	if err != nil {
		return err
	}
	other, err := s.pop(args[1])
	if err != nil {
		return err
	}
	return p.sees(other.Node, args[2])
}
