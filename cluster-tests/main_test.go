// Package clustertests looks at POPs from outside: the built binary, real
// processes, real sockets and the real sqlite3.
//
//	p := newPOP(t, "EDGEPROXY_REGION=us")      // nothing runs yet
//	p.seed(t, startBackend(t, "sa-1", "sa").row())
//	p.start(t)                                 // until it is ready
//	v := p.visit(t, "200.160.2.3")             // v.backend says who answered
//	p.sql(t, "UPDATE backends SET healthy = 0")
//	p.stop(t)                                  // SIGTERM; the end of the test does it too
//
// What happens to a whole mesh is written in words, in testdata/scenarios: a
// step a line, words that stage.do and vocabulary know, # for people. The same
// scenarios are played with processes on loopback (always), in network
// namespaces (EDGEPROXY_TEST=netns, root on Linux) and in containers
// (EDGEPROXY_TEST=lab, root and Docker on Linux); TestNemesis makes its own up.
//
//	start 3                  # POPs sa, us, eu, until they are a mesh
//	writing                  # every POP is written to from now on
//	cut sa from us eu
//	within 30s sees us sa failed
//	heal
//	quiet
//	within 10s equal         # same rows, same digest
//	no-loss                  # nothing acknowledged is lost, resurrected or invented
//
// Invariants: no fixed ports, no waiting but for a condition with a deadline,
// and every process ends with its test. A test that fails prints one line of
// state and the log of each of its POPs.
//
// It tests no function by itself; that is done beside the function.
package clustertests

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"go.uber.org/goleak"
)

// roleVariable makes the test binary play another program.
const roleVariable = "CLUSTERTESTS_AS"

// Of the process, set before the first test.
var (
	binary   string // the edgeproxy under test
	sqlite3  []string
	repoRoot string // of the module
)

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == "sqlite3" {
		os.Exit(sqliteCLI(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	if os.Getenv(roleVariable) == "faults" {
		fmt.Fprintln(os.Stderr, underFaults(os.Args[1:]))
		os.Exit(1)
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "edgeproxy-cluster-tests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := adoptOrphans(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	flag.Parse()
	if fuzzing := given("test.fuzz") || given("test.fuzzworker"); !fuzzing { // what is fuzzed here needs no binary
		if err := prepare(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if !given("test.parallel") {
		// The tests wait more than they compute.
		if err := flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left behind:", err)
			return 1
		}
	}
	return code
}

func given(name string) (set bool) {
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// prepare builds the program as the tests were built, and finds sqlite3.
func prepare(dir string) error {
	var err error
	if repoRoot, err = filepath.Abs(".."); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // one test runs it as another user
		return err
	}
	binary = filepath.Join(dir, "edgeproxy")
	args := []string{"build", "-o", binary}
	if raceDetector {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "./cmd/edgeproxy")...)
	cgo := "0"
	if sqlite.Driver == "sqlite3" {
		cgo = "1"
	}
	build.Dir, build.Env = repoRoot, append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build edgeproxy: %w\n%s", err, out)
	}

	if cli, err := exec.LookPath("sqlite3"); err == nil {
		sqlite3 = []string{cli}
		return nil
	}
	sqlite3, err = standIn()
	return err
}

// standIn is a command that plays sqlite3: this test binary in another role.
func standIn() ([]string, error) {
	self, err := os.Executable()
	return []string{"env", roleVariable + "=sqlite3", self}, err
}

// noteSources looks at every source file, so that go test, which keeps a list
// of the files that tests look at (but not TestMain), runs these again when
// one has changed.
var noteSources = sync.OnceValue(func() error {
	return filepath.WalkDir(repoRoot, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != repoRoot && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		case d.IsDir() || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		switch filepath.Ext(path) {
		case ".go", ".mod", ".sum", ".sql", ".csv", ".mmdb":
			_, err = os.Stat(path)
		}
		return err
	})
})
