package clustertests

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// countries have clients: networks that the country database knows as theirs.
var countries = map[string]string{
	"BR": "200.160.0.0/20", "US": "8.8.8.0/24", "DE": "193.99.144.0/24", "JP": "203.178.141.0/24", "CA": "24.48.0.0/16",
	"nowhere": "10.77.0.0/16", // private: counts as the POP's own region
}

// client is a network of clients.
func client(country string) (netip.Prefix, error) {
	text, ok := countries[country]
	if !ok {
		return netip.Prefix{}, fmt.Errorf("no clients in %q; there are some in %s", country, strings.Join(sorted(countries), ", "))
	}
	p := netip.MustParsePrefix(text)
	return netip.PrefixFrom(p.Addr().Next(), p.Bits()), nil
}

// connect: one client, by some connections at a time, gets these backends.
func (s *stage) connect(args []string) error {
	p, err := s.pop(args[0])
	if err != nil {
		return err
	}
	country, times := "nowhere", 1
	for rest := args[1:]; len(rest) > 1; rest = rest[2:] {
		switch value := rest[1]; rest[0] {
		case "from":
			country = value
		case "times":
			if times, err = strconv.Atoi(value); err != nil {
				return err
			}
		case "gets":
			from, err := client(country)
			if err != nil {
				return err
			}
			who, err := s.on.call(p, netip.PrefixFrom(from.Addr(), from.Addr().BitLen()), times)
			if err != nil {
				return err
			}
			return expectBackends(who, value)
		default:
			return fmt.Errorf("from, times or gets, not %q", rest[0])
		}
	}
	return errors.New("gets what?")
}

func expectBackends(who []string, want string) error {
	for _, id := range who {
		switch ok, err := path.Match(want, id); {
		case want == "one":
			if id != who[0] {
				return fmt.Errorf("one client got %v, want one backend", who)
			}
		case err != nil:
			return err
		case !ok:
			return fmt.Errorf("got %v, want %s", who, want)
		}
	}
	return nil
}

// shares: clients of a country, each with an address of its own and all
// connected at a time, are shared out by these weights, give or take 10 %.
func (s *stage) shares(args []string) error {
	p, err := s.pop(args[0])
	if err != nil {
		return err
	}
	if args[1] != "from" {
		return errors.New("from where?")
	}
	from, err := client(args[2])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	who, err := s.on.call(p, from, n)
	if err != nil {
		return err
	}
	got, weights, sum := map[string]int{}, map[string]float64{}, 0.0
	for _, id := range who {
		got[id]++
	}
	for _, arg := range args[4:] {
		id, text, _ := strings.Cut(arg, "=")
		if weights[id], err = strconv.ParseFloat(text, 64); err != nil {
			return err
		}
		sum += weights[id]
	}
	for _, id := range sorted(weights) {
		if want := float64(n) * weights[id] / sum; !near(got[id], want, 0.1) {
			return fmt.Errorf("%d connections went %v, want %.0f on %s", n, got, want, id)
		}
	}
	s.note("  %v", got)
	return nil
}

// direct: each backend greets and echoes without a proxy.
func (s *stage) direct([]string) error {
	for _, id := range sorted(s.backends) {
		if err := greets(s.backends[id], id); err != nil {
			return fmt.Errorf("%s at %s: %w", id, s.backends[id], err)
		}
	}
	if len(s.backends) == 0 {
		return errors.New("there are no backends")
	}
	return nil
}

func greets(addr netip.AddrPort, id string) error {
	c, err := net.DialTimeout("tcp", addr.String(), soon)
	if err != nil {
		return err
	}
	defer c.Close()
	v := &visit{TCPConn: c.(*net.TCPConn), r: bufio.NewReader(c), backend: id}
	line, err := v.r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "Backend: "+id+" ") {
		return fmt.Errorf("greeting %q, %w", line, err)
	}
	return v.echo("hello")
}

// clientPace is how often a POP gets a client.
const clientPace = 50 * time.Millisecond

// startClients has each POP get one client after the other.
func (s *stage) startClients([]string) error {
	if s.clients != nil {
		return errors.New("there are clients already")
	}
	ctx, end := context.WithCancel(context.Background())
	s.clients = &crowd{end: end}
	for _, name := range s.names() {
		p := s.pops[name]
		s.clients.all.Go(func() {
			pace := time.NewTicker(clientPace)
			defer pace.Stop()
			served := true
			for n := 1; ctx.Err() == nil; n++ {
				began := time.Now()
				err := s.on.visit(p)
				if err != nil && s.cutBefore(began) {
					err = nil // who was on a backend that died was cut, whatever a POP does
				}
				if err != nil && served { // the first in a row tells enough
					s.note("  client %d of %s: %v", n, name, err)
					s.refuse(name, fmt.Errorf("client %d of %s: %w", n, name, err))
				}
				served = err == nil
				select {
				case <-ctx.Done():
				case <-pace.C:
				}
			}
		})
	}
	return nil
}

// cutBefore says whether a backend has died since then.
func (s *stage) cutBefore(began time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return began.Before(s.died)
}

// dying says that a backend dies from now on, or has.
func (s *stage) dying(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.died = now
}

// refuse remembers the first failure of a POP's clients.
func (s *stage) refuse(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused[name] == nil {
		s.refused[name] = err
	}
}

func (s *stage) served([]string) error {
	if s.clients == nil {
		return errors.New("there are no clients: serving comes first")
	}
	s.clients.stop()
	s.clients = nil
	var all []error
	for _, name := range s.names() {
		if !slices.Contains(sorted(s.hurt), name) {
			all = append(all, s.refused[name])
		}
	}
	clear(s.refused)
	return errors.Join(all...)
}
