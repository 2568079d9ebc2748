//go:build linux

// Command bench measures edgeproxy beside HAProxy and nginx (stream) on this machine's loopback.
//
//	go run ./bench                                          # everything, about ten minutes
//	go run ./bench -measures requests,latency -rounds 3     # some of it
//	go run ./bench -targets haproxy,nginx -json > peers.json
//
// Each proxy, the backends and the load generator are processes of their own, so that the CPU time of each is known. The
// targets take turns within one run, because only figures of the same minute on the same machine can be compared.
//
// As root it works in a network namespace of its own, where no firewall or connection tracking weighs on the figures and
// where it fills no table of the machine.
//
// Invariants: loopback only; every wait is bounded; every child is ended by its own pid, also when bench is interrupted or
// fails, and the kernel ends it should bench be killed. All targets see the same load generator and their own set of nine
// backend addresses, so that one target's TIME_WAITs are not another's.
//
// It does not tune the kernel, and it does not measure TLS, routing quality or gossip.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// roleFlag is how bench starts itself again as one of its own helper processes. Hidden: it is not in -help.
const roleFlag = "-role"

// config is the command line.
type config struct {
	rounds    int
	window    time.Duration // per measure, target and round
	measures  []measure
	targets   []string // as asked; empty: every one that is installed
	edgeproxy string   // path of a built binary; empty: build ./cmd/edgeproxy
	json      bool
	shared    bool          // stay in the network namespace that bench was started in
	network   string        // what became of it: own or shared
	conns     int           // at a time, in connections, resets and requests
	streams   int           // at a time, in bulk
	idle      int           // held open, in idle
	most      int           // the same, in curve, at its end
	few       int           // backends in many, a thousand times as many there
	settle    time.Duration // between opening those and looking at what they take
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == roleFlag {
		os.Exit(runRole(os.Args[2]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run prints what was measured even if it ends early, and then returns why it did.
func run(ctx context.Context, args []string) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "edgeproxy-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := raiseDescriptors(cfg.most); err != nil {
		return err
	}
	targets, err := findTargets(ctx, cfg, dir)
	if err != nil {
		return err
	}
	// After the build, which may need the real network, and before the first socket.
	if cfg.network, err = useNetwork(cfg.shared, os.Stderr); err != nil {
		return err
	}
	rig, err := newRig(cfg, dir, os.Stderr)
	if err != nil {
		return err
	}
	defer rig.close()
	fmt.Fprintf(os.Stderr, "about %s for %s; Ctrl-C prints what there is\n", estimate(cfg, len(targets)), names(targets))

	res, err := rig.measure(ctx, targets)
	if res != nil && len(res.values) > 0 {
		write := res.writeTable
		if cfg.json {
			write = res.writeJSON
		}
		if werr := write(os.Stdout); werr != nil && err == nil {
			err = werr
		}
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

func parse(args []string) (config, error) {
	cfg := config{conns: 64, streams: 4, idle: 2000, most: 8000, few: 10, settle: 400 * time.Millisecond}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	var seconds float64
	var measures, targets string
	flags.IntVar(&cfg.rounds, "rounds", 5, "rounds; in each every target is measured once")
	flags.Float64Var(&seconds, "seconds", 3, "length of one measurement")
	flags.StringVar(&measures, "measures", "", "comma-separated, default all of: "+measureNames())
	flags.StringVar(&targets, "targets", "", "comma-separated, default "+strings.Join(defaultTargets, ",")+" as far as installed; direct is the backend without a proxy")
	flags.StringVar(&cfg.edgeproxy, "edgeproxy", "", "path of a built edgeproxy (default: build ./cmd/edgeproxy)")
	flags.BoolVar(&cfg.json, "json", false, "print JSON with the figures of every round instead of the table")
	flags.BoolVar(&cfg.shared, "shared-network", false, "stay in this network namespace, where firewalls and connection tracking weigh on the figures")
	if err := flags.Parse(args); err != nil {
		return cfg, err
	}
	if flags.NArg() > 0 {
		return cfg, fmt.Errorf("unexpected argument %q; run with -help for the flags", flags.Arg(0))
	}
	if cfg.rounds < 1 || cfg.rounds > 1000 {
		return cfg, fmt.Errorf("-rounds %d: want 1 to 1000", cfg.rounds)
	}
	if seconds < 0.05 || seconds > 600 {
		return cfg, fmt.Errorf("-seconds %g: want 0.05 to 600", seconds)
	}
	cfg.window = time.Duration(seconds * float64(time.Second))
	var err error
	if cfg.measures, err = pickMeasures(split(measures)); err != nil {
		return cfg, err
	}
	cfg.targets = split(targets)
	return cfg, nil
}

// split takes a comma-separated list apart; the empty one has no elements.
func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// estimate is the length of a whole run, roughly: windows, and about one second around each of the others.
func estimate(cfg config, targets int) time.Duration {
	var round time.Duration
	for _, m := range cfg.measures {
		one := time.Second
		if m.windowed {
			one = cfg.window + warm(cfg.window)
		}
		round += one * time.Duration(targets)
	}
	return (round * time.Duration(cfg.rounds)).Round(time.Second)
}
