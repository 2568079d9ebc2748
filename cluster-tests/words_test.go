package clustertests

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// word is something that a scenario can say.
type word struct {
	usage       string
	least, most int // arguments; most -1: any number
	do          func(*stage, []string) error
}

// vocabulary is all words. Conditions are words like others: "within" asks one
// again and again, and "!" wants it not to hold.
func vocabulary() map[string]word {
	power := func(to string) word {
		return word{"POP...", 1, -1, func(s *stage, names []string) error {
			return s.each(names, func(name string, p *pop) error { return s.power(name, p, to) })
		}}
	}
	percent := func(set func(*link, int)) word {
		return word{"PERCENT POP... from|to POP...", 4, -1, func(s *stage, a []string) error {
			n, err := strconv.Atoi(a[0])
			if err != nil || n < 0 || n > 100 {
				return fmt.Errorf("%s percent: want 0 to 100", a[0])
			}
			return s.links(a[1:], func(l *link) { set(l, n) })
		}}
	}
	return map[string]word{
		"needs":    {"FAULT...; skips the scenario where it cannot be played", 1, -1, (*stage).needs},
		"start":    {"N; POPs sa us eu ap af, until they are a mesh", 1, 1, (*stage).start},
		"join":     {"", 0, 0, func(s *stage, _ []string) error { s.know(s.on.add(s.mesh)); return nil }},
		"backends": {"; the seed's nine", 0, 0, (*stage).startBackends},

		"backend": {"ID up|down", 2, 2, (*stage).backend},

		"run": power("run"), "stop": power("stop"), "kill": power("kill"), "pause": power("pause"), "resume": power("resume"), "upgrade": power("upgrade"),
		"restart": {"POP...", 1, -1, func(s *stage, names []string) error {
			return errors.Join(s.do(append([]string{"stop"}, names...)), s.do(append([]string{"run"}, names...)))
		}},
		"skew":      {"POP DURATION; its clock is wrong: at once where it was given one before its start, else from its next start on", 2, 2, (*stage).skew},
		"fill-disk": {"POP", 1, 1, func(s *stage, a []string) error { return s.disk(a[0], true) }},
		"free-disk": {"POP", 1, 1, func(s *stage, a []string) error { return s.disk(a[0], false) }},

		"cut": {"POP... from|to POP...", 3, -1, func(s *stage, a []string) error {
			return s.links(a, func(l *link) { l.cut = true })
		}},
		"lose":  percent(func(l *link, n int) { l.loss = n }),
		"twice": percent(func(l *link, n int) { l.twice = n }),
		"early": percent(func(l *link, n int) { l.early = n }),
		"delay": {"DURATION POP... from|to POP...", 4, -1, (*stage).delay},
		"heal":  {"; all links are good again", 0, 0, func(s *stage, _ []string) error { return s.on.heal() }},

		"write":   {"POP ROW; a value of its own, remembered", 2, 2, (*stage).write},
		"delete":  {"POP ROW; remembered", 2, 2, (*stage).remove},
		"sql":     {"POP STATEMENT", 2, 2, func(s *stage, a []string) error { _, err := s.query(a[0], a[1]); return err }},
		"writing": {"; from now on all POPs are written to", 0, 0, (*stage).startWriting},
		"writes":  {"N; waits until so many more are acknowledged", 1, 1, (*stage).waitWrites},
		"quiet":   {"; no more writes", 0, 0, func(s *stage, _ []string) error { s.writers.stop(); s.writers = nil; return nil }},
		"serving": {"; from now on all POPs have clients", 0, 0, (*stage).startClients},
		"served":  {"; no more, and none was refused by a POP to which nothing was done", 0, 0, (*stage).served},

		"ready": {"POP...", 1, -1, func(s *stage, names []string) error {
			return s.each(names, func(_ string, p *pop) error { return p.isReady() })
		}},
		"equal":    {"; all POPs hold the same rows and print the same digest", 0, 0, func(s *stage, _ []string) error { return same(s.running()...) }},
		"no-loss":  {"; each POP has what was acknowledged, and nothing else", 0, 0, (*stage).noLoss},
		"together": {"; all POPs see each other and have streams", 0, 0, func(s *stage, _ []string) error { return formed(s.running()...) }},
		"latest":   {"ROW; all POPs have what was written to it last", 1, 1, (*stage).latest},
		"held":     {"POP|all N; so many rows wait in its quarantine", 2, 2, (*stage).held},
		"beside":   {"POP DURATION; its status says that its clock is so far from the mesh's, to half a second", 2, 2, (*stage).beside},
		"wait":     {"DURATION; six times as long in the long tests", 1, 1, (*stage).wait},
		"looking":  {"; from now on what POPs say of each other is noted", 0, 0, (*stage).startVerdicts},
		"alive":    {"DURATION; no more, and no POP had another as not alive for longer", 1, 1, (*stage).aliveWithin},
		"state":    {"POP|all BACKEND up|down|full|...", 3, 3, (*stage).state},
		"sees":     {"POP POP STATUS", 3, 3, (*stage).sees},
		"has":      {"POP|all SELECT TEXT", 3, 3, (*stage).has},
		"connect":  {"POP [from COUNTRY] [times N] gets BACKENDS|one", 3, -1, (*stage).connect},
		"shares":   {"POP from COUNTRY N ID=WEIGHT...", 5, -1, (*stage).shares},
		"direct":   {"; each backend answers by itself", 0, 0, (*stage).direct},
	}
}

// needs skips a scenario that this substrate cannot play, and says what for.
func (s *stage) needs(faults []string) error {
	for _, fault := range faults {
		if !slices.Contains([]string{"cut", "delay", "loss", "disk", "skew", "join", "upgrade"}, fault) {
			return fmt.Errorf("unknown fault %q", fault)
		}
		if why := s.on.refuses(fault); why != "" {
			s.t.Skipf("%s: %s", fault, why)
		}
	}
	return nil
}

func (s *stage) start(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 || n > 5 {
		return fmt.Errorf("%s POPs: want 1 to 5", args[0])
	}
	s.mesh = s.on.raise(n)
	for _, p := range s.mesh.pops {
		s.know(p)
	}
	return nil
}

// know enters a POP.
func (s *stage) know(p *pop) { s.pops[p.setting("EDGEPROXY_REGION")] = p }

func (s *stage) startBackends([]string) (err error) {
	if s.backends, err = s.on.backends(s.mesh); err != nil {
		return err
	}
	return waitFor(converged, func() error {
		for _, p := range s.mesh.pops {
			if got, err := p.query("SELECT count(*) FROM backends WHERE app='myapp'"); err != nil || strings.TrimSpace(got) != "9" {
				return fmt.Errorf("%s has %q backends: %v", p.Node, got, err)
			}
			// Rows that have arrived are not routed by yet.
			if st, err := look[api.Status](p, "status"); err != nil || st.Backends.Up < 9 {
				return fmt.Errorf("%s routes to %d backends: %v", p.Node, st.Backends.Up, err)
			}
		}
		return nil
	})
}

func (s *stage) backend(args []string) error {
	if _, known := s.backends[args[0]]; !known || args[1] != "up" && args[1] != "down" {
		return fmt.Errorf("want up or down, and one of %s", strings.Join(sorted(s.backends), ", "))
	}
	if args[1] == "down" {
		s.dying(time.Now().Add(time.Hour))
		defer func() { s.dying(time.Now()) }()
	}
	return s.on.backend(args[0], args[1] == "up")
}

// power does it and remembers who cannot be asked now.
func (s *stage) power(name string, p *pop, to string) error {
	if to == "pause" || to == "kill" || to == "stop" {
		s.down[name], s.hurt[name] = true, true
	}
	if err := s.on.power(p, to); err != nil {
		return err
	}
	if to == "run" || to == "resume" {
		delete(s.down, name)
	}
	return nil
}

func (s *stage) skew(args []string) error {
	if why := s.on.refuses("skew"); why != "" {
		return errors.New(why)
	}
	if _, err := time.ParseDuration(args[1]); err != nil {
		return err
	}
	p, err := s.pop(args[0])
	if err != nil {
		return err
	}
	return p.skewClock(s.t, args[1])
}

func (s *stage) disk(name string, full bool) error {
	p, err := s.pop(name)
	if err != nil {
		return err
	}
	if why := s.on.refuses("disk"); why != "" {
		return errors.New(why)
	}
	s.hurt[name] = true
	return s.on.disk(p, full)
}

// links changes those between two groups: "sa from us eu" in both directions,
// "sa to us" only what sa sends.
func (s *stage) links(args []string, f func(*link)) error {
	at := slices.IndexFunc(args, func(w string) bool { return w == "from" || w == "to" })
	if at < 1 || at == len(args)-1 {
		return errors.New("want POPs, from or to, and POPs")
	}
	return s.each(args[:at], func(left string, _ *pop) error {
		return s.each(args[at+1:], func(right string, _ *pop) error {
			if left == right {
				return nil
			}
			a, b := s.number(left), s.number(right)
			if err := s.on.change(a, b, f); err != nil || args[at] == "to" {
				return err
			}
			return s.on.change(b, a, f)
		})
	})
}

// wait lets time pass, for what must not happen.
func (s *stage) wait(args []string) error {
	d, err := time.ParseDuration(args[0])
	if err == nil {
		waitUntil(s.t.Context(), time.Now().Add(d*time.Duration(often(1, 6))))
	}
	return err
}

func (s *stage) delay(args []string) error {
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	return s.links(args[1:], func(l *link) { l.delay = d })
}
