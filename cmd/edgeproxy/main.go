// Command edgeproxy runs one point of presence (POP) and talks to running ones.
//
//	edgeproxy --region us                       # no command means serve
//	edgeproxy backend add us-1 --region us --addr 10.50.2.1:8080
//	edgeproxy explain 200.160.2.3               # why would this client go where?
//	edgeproxy backend list --db routing.db      # without a daemon
//
// There is one file per command, and none of them decides anything: they read
// flags, ask an api.POP (a running one or a file) and print. Results go to
// stdout, everything else to stderr as lines that begin with "edgeproxy: ".
// Exit codes: 0 done, 1 failed, 2 bad usage, bad configuration or findings of
// check.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/mesh"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
}

// cli is the process as the commands see it.
type cli struct {
	stdout, stderr io.Writer
	environ        []string
	unknown        error // words that are no command, of which help was asked for
}

// run is the whole program but for the process around it.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer, environ []string) int {
	c := &cli{stdout: stdout, stderr: stderr, environ: environ}
	root := newRoot(c)
	root.SetArgs(append([]string{}, args...)) // cobra takes nil for os.Args
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		err = c.unknown
	}
	if err != nil && !errors.Is(err, errFindings) {
		for line := range strings.Lines(err.Error()) {
			c.complain(strings.TrimRight(line, "\n"))
		}
	}
	return exitCode(err)
}

// complain tells the person at the terminal what is wrong.
func (c *cli) complain(line string) {
	// An error of stderr has nowhere to go.
	_, _ = fmt.Fprintln(c.stderr, "edgeproxy: "+printable(line))
}

// env is the value of a variable, empty if it is not set.
func (c *cli) env(name string) string {
	value := ""
	for _, entry := range c.environ {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value = v
		}
	}
	return value
}

// only is the environment without all but these variables.
func (c *cli) only(names ...string) (environ []string) {
	for _, name := range names {
		environ = append(environ, name+"="+c.env(name))
	}
	return environ
}

// errFindings ends a check that has printed what it found.
var errFindings = errors.New("check found problems")

// usageError is a mistake on the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFindings), errors.As(err, new(usageError)),
		errors.As(err, new(config.Problems)), errors.As(err, new(*mesh.FieldError)):
		return 2
	}
	return 1
}
