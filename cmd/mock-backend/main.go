// Command mock-backend runs one backend that says who it is, over HTTP or as lines of text.
//
//	mock-backend -port 9001 -region eu -id mock-eu-1 &
//	mock-backend -port 9002 -region eu -tcp &
//	curl -s localhost:9001/health           # OK - mock-eu-1 (eu)
//
// It serves until SIGTERM or SIGINT, closes what is open and exits with 0. Exit code 2 is a mistake on the command line.
// All behaviour lives in internal/mockbackend.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/edgeproxy/edgeproxy/internal/mockbackend"
)

var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stderr)
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

// run serves until ctx ends. What a person should read goes to out; errUsage and flag.ErrHelp have been explained there.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("mock-backend", flag.ContinueOnError)
	flags.SetOutput(out)
	port := flags.Int("port", 9001, "TCP port; 0 takes a free one")
	region := flags.String("region", mockbackend.DefaultRegion, "region to report")
	id := flags.String("id", "", "name to report (default mock-{region}-{port})")
	addr := flags.String("addr", "", "address to listen on, without port (default every address)")
	lines := flags.Bool("tcp", false, "greet and echo lines of text instead of HTTP")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return errUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(out, "unexpected argument %q; run with -help for the flags\n", flags.Arg(0))
		return errUsage
	}
	if _, _, err := net.SplitHostPort(*addr); err == nil {
		fmt.Fprintf(out, "-addr %s: give the address alone, the port goes in -port\n", *addr)
		return errUsage
	}

	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(*addr, strconv.Itoa(*port)))
	if err != nil {
		return fmt.Errorf("%w; choose another with -addr or -port", err)
	}
	defer ln.Close()
	cfg := mockbackend.Config{ID: *id, Region: *region, Port: ln.Addr().(*net.TCPAddr).Port}
	b, kind, err := backend(cfg, *lines)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s (%s) serves %s on %s\n", b.ID(), b.Region(), kind, ln.Addr())
	return b.Serve(ctx, ln)
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
