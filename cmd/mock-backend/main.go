// Command mock-backend runs one backend that says who it is, over HTTP or as lines of text.
//
//	mock-backend -port 9001 -region eu -id mock-eu-1 &
//	mock-backend -port 9002 -region eu -tcp &
//	curl -s localhost:9001/health           # OK - mock-eu-1 (eu)
//	mock-backend -call localhost:9002 -n 5  # five connections at a time, each carries a line: who answers?
//
// In the compose lab, whose image has no shell and no sqlite3, it also enters itself into routing.db (-register) and
// plays the clients (-call -from -every). It serves until SIGTERM or SIGINT, closes what is open and exits with 0. Exit code 2 is a mistake on the command line.
// All behaviour lives in internal/mockbackend.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/internal/mockbackend"
)

var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "mock-backend:", err)
		os.Exit(1)
	}
}

// settings are the command line.
type settings struct {
	port, n          int
	region, id, addr string
	lines            bool
	register, token  string
	row              mockbackend.Row
	call, from       string
	every            time.Duration
	clients          netip.Prefix
}

const callTimeout = 10 * time.Second

// parse explains on out what is wrong; the error is then errUsage or flag.ErrHelp.
func parse(args []string, out io.Writer) (s settings, err error) {
	flags := flag.NewFlagSet("mock-backend", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.IntVar(&s.port, "port", 9001, "TCP port; 0 takes a free one")
	flags.StringVar(&s.region, "region", mockbackend.DefaultRegion, "region to report")
	flags.StringVar(&s.id, "id", "", "name to report (default mock-{region}-{port})")
	flags.StringVar(&s.addr, "addr", "", "address to listen on, without port (default every address)")
	flags.BoolVar(&s.lines, "tcp", false, "greet and echo lines of text instead of HTTP")
	flags.StringVar(&s.register, "register", "", "URL of an edgeproxy's API: add this backend to its routing database; needs -addr")
	flags.StringVar(&s.token, "token", "", "with -register: secret of the API, or @file")
	flags.StringVar(&s.row.App, "app", "myapp", "with -register: name of the app")
	flags.IntVar(&s.row.Weight, "weight", 1, "with -register: weight")
	flags.IntVar(&s.row.Soft, "soft", 50, "with -register: comfortable number of connections")
	flags.IntVar(&s.row.Hard, "hard", 100, "with -register: greatest number of connections")
	flags.StringVar(&s.call, "call", "", "be a client of host:port instead, and print who answers")
	flags.StringVar(&s.from, "from", "", "with -call: address of the client, sent by PROXY header; or a prefix, each connection from the next address in it")
	flags.IntVar(&s.n, "n", 1, "with -call: connections at a time")
	flags.DurationVar(&s.every, "every", 0, "with -call: do it again and again, so far apart")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return s, err
	} else if err != nil {
		return s, errUsage
	}
	wrong := func(format string, a ...any) (settings, error) {
		fmt.Fprintf(out, format+"\n", a...)
		return s, errUsage
	}
	if flags.NArg() > 0 {
		return wrong("unexpected argument %q; run with -help for the flags", flags.Arg(0))
	}
	if _, _, err := net.SplitHostPort(s.addr); err == nil {
		return wrong("-addr %s: give the address alone, the port goes in -port", s.addr)
	}
	if _, err := netip.ParseAddr(s.addr); err != nil && s.register != "" {
		return wrong("-register needs -addr with the IP address by which edgeproxy reaches this backend")
	}
	if s.clients, err = network(s.from); err != nil && s.from != "" {
		return wrong("-from %s: neither an IP address nor a prefix", s.from)
	}
	return s, nil
}

// network is a prefix, or one address.
func network(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Prefix(a.BitLen())
	}
	return netip.ParsePrefix(text)
}

// run serves, or calls, until ctx ends. Who answered a call goes to stdout, what a person should read besides to out;
// errUsage and flag.ErrHelp have been explained there.
func run(ctx context.Context, args []string, stdout, out io.Writer) error {
	s, err := parse(args, out)
	if err != nil {
		return err
	}
	if s.call != "" {
		return callers(ctx, s, stdout, out)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(s.addr, strconv.Itoa(s.port)))
	if err != nil {
		return fmt.Errorf("%w; choose another with -addr or -port", err)
	}
	defer ln.Close()
	at := ln.Addr().(*net.TCPAddr)
	cfg := mockbackend.Config{ID: s.id, Region: s.region, Port: at.Port}
	b, kind, err := backend(cfg, s.lines)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s (%s) serves %s on %s\n", b.ID(), b.Region(), kind, ln.Addr())
	if s.register != "" { // it listens already: who is told of it may connect
		if err := register(ctx, s, b, at.AddrPort()); err != nil {
			return err
		}
	}
	return b.Serve(ctx, ln)
}

func register(ctx context.Context, s settings, b server, addr netip.AddrPort) error {
	token, err := s.token, error(nil)
	if file, ok := strings.CutPrefix(token, "@"); ok {
		var body []byte
		if body, err = os.ReadFile(file); err != nil {
			return fmt.Errorf("-token: %w", err)
		}
		token = strings.TrimSpace(string(body))
	}
	row := s.row
	row.ID, row.Region, row.Addr = b.ID(), b.Region(), netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	return mockbackend.Register(ctx, s.register, token, row)
}

// callers calls once, or until ctx ends; then what fails is told, and the next call comes all the same.
func callers(ctx context.Context, s settings, stdout, out io.Writer) error {
	call := mockbackend.Call{Addr: s.call, From: s.clients, N: s.n, Timeout: callTimeout}
	if s.every <= 0 {
		return call.Do(ctx, stdout)
	}
	pace := time.NewTicker(s.every)
	defer pace.Stop()
	for {
		if err := call.Do(ctx, stdout); err != nil && ctx.Err() == nil {
			fmt.Fprintln(out, "no answer:", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-pace.C:
		}
	}
}

// server is either kind of mock backend. Serve closes the listener.
type server interface {
	ID() string
	Region() string
	Serve(context.Context, net.Listener) error
}

func backend(cfg mockbackend.Config, lines bool) (server, string, error) {
	if lines {
		b, err := mockbackend.NewTCP(cfg)
		return b, "tcp", err
	}
	b, err := mockbackend.New(cfg)
	return b, "http", err
}
