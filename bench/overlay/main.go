//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// roleFlag is how overlay starts itself again as one of its own processes. Hidden: it is not in -help.
const roleFlag = "-role"

// config is the command line.
type config struct {
	rounds  int
	window  time.Duration // of the streams, per mode and round
	modes   []mode
	streams int
	up      bool // from the client to the backend
	json    bool
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
		fmt.Fprintln(os.Stderr, "overlay:", err)
		os.Exit(1)
	}
}

// run prints what was measured even if it ends early, and then returns why it did.
func run(ctx context.Context, args []string) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	if err := canMeasure(); err != nil {
		return err
	}
	r, err := newRig(ctx, cfg, os.Stderr)
	if err != nil {
		return err
	}
	defer r.close()
	res, err := r.measure(ctx)
	if len(res.values) > 0 {
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

// canMeasure says what is missing, in a sentence.
func canMeasure() error {
	if os.Getuid() != 0 {
		return errors.New("makes network namespaces and interfaces, which needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("needs iproute2: apt-get install iproute2")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("needs TUN devices (modprobe tun, or in a container --device /dev/net/tun): %w", err)
	}
	return nil
}

func parse(args []string) (config, error) {
	var cfg config
	var seconds float64
	var names string
	flags := flag.NewFlagSet("overlay", flag.ContinueOnError)
	flags.IntVar(&cfg.rounds, "rounds", 5, "rounds; in each every mode is measured once")
	flags.Float64Var(&seconds, "seconds", 3, "length of the streams; the round trips take a third of it more")
	flags.StringVar(&names, "modes", "", "comma-separated, default all of: "+strings.Join(modeNames(allModes), ","))
	flags.IntVar(&cfg.streams, "streams", 1, "TCP streams at a time")
	flags.BoolVar(&cfg.up, "up", false, "stream from the client to the backend (default: to the client)")
	flags.BoolVar(&cfg.json, "json", false, "print JSON with the figures of every round instead of the table")
	if err := flags.Parse(args); err != nil {
		return cfg, err
	}
	switch {
	case flags.NArg() > 0:
		return cfg, fmt.Errorf("unexpected argument %q; run with -help for the flags", flags.Arg(0))
	case cfg.rounds < 1 || cfg.rounds > 1000:
		return cfg, fmt.Errorf("-rounds %d: want 1 to 1000", cfg.rounds)
	case !(seconds >= 0.05 && seconds <= 600):
		return cfg, fmt.Errorf("-seconds %g: want 0.05 to 600", seconds)
	case cfg.streams < 1 || cfg.streams > 1000:
		return cfg, fmt.Errorf("-streams %d: want 1 to 1000", cfg.streams)
	}
	cfg.window = time.Duration(seconds * float64(time.Second))
	var err error
	cfg.modes, err = pickModes(names)
	return cfg, err
}
