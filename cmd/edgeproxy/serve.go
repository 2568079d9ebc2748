package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/internal/handover"
	"github.com/edgeproxy/edgeproxy/node"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
)

func newServe(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "serve",
		GroupID: groupPOP,
		Short:   "Run a POP (the default)",
		Long: `Runs a point of presence: accepts TCP connections, sends each to the best
backend of the routing database, and answers the admin API.

A flag beats its environment variable (in brackets), which beats the YAML file,
which beats the default. Durations ending in -secs are seconds, in -ms
milliseconds; fractions are allowed. A default port that is taken moves to a
free one, one that was asked for does not. The addresses in use stand in
routing.db.pop beside the database, where the other commands find them.

SIGTERM or SIGINT drains: no new connections, open ones may finish for
--drain-secs. A second signal, a moment after the first, ends at once.
SIGHUP reads the settings again and opens the country file anew; the log names
settings that need a restart. SIGUSR2 is "edgeproxy upgrade". Listening sockets
of systemd are taken where they are called listen and api, dns and dnsudp
(FileDescriptorName=).`,
		Example: `  edgeproxy serve --region us --listen 127.0.0.1:8080
  EDGEPROXY_REGION=us EDGEPROXY_DB_PATH=us.db edgeproxy
  edgeproxy serve --config /etc/edgeproxy/edgeproxy.yaml --log-format json`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return serve(c, cmd) },
	}
	config.AddFlags(cmd.Flags())
	return cmd
}

func serve(c *cli, cmd *cobra.Command) error {
	load := func() (*config.Config, []string, error) {
		return config.Load(cmd.Flags(), c.environ, config.ReadFile)
	}
	cfg, warnings, err := load()
	if err != nil {
		return err
	}
	log := c.newLogger(c.stderr, cfg.LogFormat)
	setLevel(cfg.LogLevel)
	warn(log, warnings)

	opts := node.Options{Version: version(), Successor: successor(), Query: queryCommand}
	if opts.Estate, err = handover.Inherit(); err != nil {
		return err
	}
	if opts.Now, err = c.clock(log); err != nil {
		return err
	}
	// Where the reader of the log has gone, a line is lost and not the POP.
	signal.Ignore(syscall.SIGPIPE)
	for {
		told, err := serveOnce(cmd.Context(), cfg, opts, load, log)
		opts.Estate = nil // it has been taken
		if renamed := errors.Is(err, node.ErrRenamed); !renamed {
			return err
		} else if told {
			return nil
		}
	}
}

// serveOnce runs a POP until a signal ends it, or something else: told says which.
func serveOnce(ctx context.Context, cfg *config.Config, opts node.Options, load func() (*config.Config, []string, error), log zerolog.Logger) (told bool, err error) {
	ctx, drain := context.WithCancel(ctx)
	defer drain()
	n := node.New(cfg, opts, log)
	s := signals{node: n, drain: drain, load: load, log: log, ended: make(chan struct{})}
	// Before anything is opened: a signal during the start must not kill it.
	// Room for a few, so that the second TERM is not lost during a reload.
	s.arrived = make(chan os.Signal, 8)
	signal.Notify(s.arrived, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR2)
	defer signal.Stop(s.arrived)
	var handler sync.WaitGroup
	handler.Go(func() { told = s.handle() })
	err = n.Run(ctx)
	close(s.ended)
	handler.Wait()
	return told, err
}

// successor is how the next generation is started: as this one was, by the path
// that was given, behind which there may be another binary then.
func successor() func() *exec.Cmd {
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		path, _ = os.Executable() // then the start says what is wrong
	}
	args := append([]string{path}, os.Args[1:]...)
	return func() *exec.Cmd {
		return &exec.Cmd{Path: path, Args: args, Env: os.Environ(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	}
}

// skewVariable is for cluster-tests only: how far the clock by which changes
// are stamped is off, or @ and a file that says so at any moment. What fakes the
// time of other programs does not reach a Go program. It is no setting, and the
// log says that it is on.
const skewVariable = "CLUSTERTESTS_SKEW"

// clock is nil but in such a test.
func (c *cli) clock(log zerolog.Logger) (func() time.Time, error) {
	text := c.env(skewVariable)
	if text == "" {
		return nil, nil
	}
	file, changes := strings.CutPrefix(text, "@")
	skewOf := func() (time.Duration, error) { return time.ParseDuration(text) }
	if changes {
		skewOf = func() (time.Duration, error) {
			body, err := os.ReadFile(file)
			if err != nil {
				return 0, err
			}
			return time.ParseDuration(string(body))
		}
	}
	skew, err := skewOf()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", skewVariable, err)
	}
	log.Warn().Dur("skew_ms", skew).Msg("this POP's clock is wrong on purpose: " + skewVariable + " is set, for tests only")
	if !changes {
		return func() time.Time { return time.Now().Add(skew) }, nil
	}
	return func() time.Time {
		skew, _ := skewOf() // the test sees to it that there is one
		return time.Now().Add(skew)
	}, nil
}

// signals does to a running node what the operator's signals ask for.
type signals struct {
	node    *node.Node
	drain   context.CancelFunc
	arrived chan os.Signal
	load    func() (*config.Config, []string, error)
	log     zerolog.Logger
	ended   chan struct{}
}

// handle returns when ended is closed, and says whether a signal asked for the end.
//
//	running --TERM, INT--> draining --TERM, INT, sameWord later or more--> aborted
//	   any  --HUP--------> the same, with the settings read again
//	running --USR2-------> retired, once a new process serves; there TERM, INT begin the usual drain
func (s signals) handle() (draining bool) {
	var began time.Time
	for {
		select {
		case <-s.ended:
			return draining
		case sig := <-s.arrived:
			s.log.Info().Stringer("signal", sig).Msg("signal received")
			switch {
			case sig == syscall.SIGHUP:
				s.reload()
			case sig == syscall.SIGUSR2:
				go func() { // the log says what comes of it; a signal must not wait for that
					if _, err := s.node.Upgrade(context.Background()); err != nil {
						s.log.Error().Err(err).Msg("not upgraded")
					}
				}()
			case draining && time.Since(began) < sameWord:
			case draining:
				s.node.Abort()
			default:
				draining, began = true, time.Now()
				s.node.Retire()
				s.drain()
			}
		}
	}
}

func (s signals) reload() {
	select {
	case <-s.node.Ready():
	default:
		return // it has only just read the settings, and has nothing yet to apply them to
	}
	cfg, warnings, err := s.load()
	warn(s.log, warnings)
	if err != nil {
		s.log.Error().Err(err).Msg("configuration not reloaded")
		return
	}
	setLevel(cfg.LogLevel)
	s.node.Reload(context.Background(), cfg)
}

func warn(log zerolog.Logger, warnings []string) {
	for _, w := range warnings {
		log.Warn().Str("err", w).Msg("configuration")
	}
}
