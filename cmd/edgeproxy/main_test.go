package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write what the commands print into the scripts of testdata")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"edgeproxy": main})
}

// TestScripts runs testdata/*.txt, which read as a manual of the command line.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector's default makes every exit take a second
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"wait-ready": waitReady,
			"wait-log":   waitLog,
			"wait-for":   waitFor,
			"gossip":     gossip,
			"hangup":     hangup,
			"listener":   listener,
			"connect":    connect,
		},
	})
}

// waitReady waits until the POP of an address file takes traffic; with ! until
// it is there and takes none.
func waitReady(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] wait-ready file.pop")
	}
	eventually(ts, func() bool {
		c, err := api.Dial(popFile(ts, args[0]).API, "")
		if err != nil {
			return false
		}
		defer c.Close()
		ready, _, err := c.Ready(context.Background())
		return err == nil && ready == !neg
	})
}

// waitLog waits until the text stands in a file.
func waitLog(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: wait-log file text")
	}
	eventually(ts, func() bool {
		body, _ := os.ReadFile(ts.MkAbs(args[0]))
		return bytes.Contains(body, []byte(args[1]))
	})
}

// waitFor runs edgeproxy until what it prints holds the text.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: [!] wait-for text args...")
	}
	eventually(ts, func() bool {
		_ = ts.Exec("edgeproxy", args[1:]...)
		return strings.Contains(ts.ReadFile("stdout"), args[0]) == !neg
	})
}

// gossip puts the gossip address of the POP of an address file into a variable.
func gossip(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[1], popFile(ts, args[0]).Gossip)
}

// eventually asks other processes again and again, which cannot tell us.
func eventually(ts *testscript.TestScript, done func() bool) {
	const most = time.Minute
	for deadline := time.After(most); !done(); {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			ts.Fatalf("waited %s", most)
		}
	}
}

// popFile is empty where there is no address file (yet).
func popFile(ts *testscript.TestScript, name string) (pop api.PopFile) {
	if body, err := os.ReadFile(ts.MkAbs(name)); err == nil {
		_ = json.Unmarshal(body, &pop)
	}
	return pop
}

// hangup sends SIGHUP to the POP of an address file.
func hangup(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(syscall.Kill(popFile(ts, args[0]).PID, syscall.SIGHUP))
}

// listener is a backend that accepts and stays silent; its address goes into a variable.
func listener(ts *testscript.TestScript, _ bool, args []string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], ln.Addr().String())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "hello\n")
		}
	}()
	ts.Defer(func() { ln.Close(); <-done })
}

// connect opens a connection through the POP of an address file, and keeps it
// until the script ends.
func connect(ts *testscript.TestScript, _ bool, args []string) {
	conn, err := net.Dial("tcp", popFile(ts, args[0]).Listen)
	ts.Check(err)
	ts.Defer(func() { conn.Close() })
	_, err = io.ReadFull(conn, make([]byte, len("hello\n")))
	ts.Check(err)
}

// commands calls do with every command, hidden ones too.
func commands(do func(*cobra.Command)) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		do(cmd)
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	root := newRoot(&cli{stdout: io.Discard, stderr: io.Discard})
	root.InitDefaultHelpCmd()
	walk(root)
}

// TestEveryCommandIsDocumented also parses every example.
func TestEveryCommandIsDocumented(t *testing.T) {
	commands(func(cmd *cobra.Command) {
		if cmd.Short == "" || cmd.Long == "" || cmd.Example == "" || cmd.Args == nil && cmd.Name() != "help" {
			t.Errorf("%s: short %q, long %q, example %q, or no check of its arguments", cmd.CommandPath(), cmd.Short, cmd.Long, cmd.Example)
		}
		if strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short ends in a full stop", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Example) {
			if line := strings.TrimSpace(line); strings.HasPrefix(line, "sqlite3 ") {
				if !strings.Contains(line, "-cmd '.timeout 5000'") {
					t.Errorf("%s: %q does not wait for the lock", cmd.CommandPath(), line)
				}
			} else {
				parseExample(t, line)
			}
		}
	})
}

// parseExample checks that the command exists and takes the flags and arguments of the line.
func parseExample(t *testing.T, line string) {
	t.Helper()
	_, words, ok := strings.Cut(line+" ", "edgeproxy ")
	if !ok {
		t.Errorf("%q is no example", line)
		return
	}
	for _, end := range []string{" && ", " > ", " | ", ")"} {
		words, _, _ = strings.Cut(words, end)
	}
	var args []string
	for i, part := range strings.Split(words, "'") {
		if i%2 == 1 { // in quotes
			args = append(args, part)
			continue
		}
		for _, word := range strings.Fields(part) {
			args = append(args, strings.Trim(word, "\""))
		}
	}
	root := newRoot(&cli{stdout: io.Discard, stderr: io.Discard})
	root.InitDefaultHelpCmd()
	cmd, rest, err := root.Find(args)
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == nil {
		err = cmd.ValidateArgs(cmd.Flags().Args())
	}
	if err != nil {
		t.Errorf("%q: %v", line, err)
	}
}

// TestExitCodes also checks that whoever is refused is told why.
func TestExitCodes(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, tc := range []struct {
		args string
		want int
	}{
		{"version", 0},
		{"backend add a --region us --addr 192.0.2.1:80 --db a.db", 0},
		{"check --db a.db", 0},
		{"status", 1},
		{"backend remove b --db a.db", 1},
		{"backend add a --region us --addr 192.0.2.1:80 --db a.db", 1},
		{"backend add b --region us --addr 192.0.2.1 --db a.db", 2},
		{"backend list --db a.db --api 127.0.0.1:1", 2},
		{"check --db b.db", 2},
		{"serv", 2},
		{"--regoin us", 2},
		{"--region 1,2", 2},
		{"serve --health-check bogus", 2},
	} {
		var stdout, stderr bytes.Buffer
		got := run(strings.Fields(tc.args), nil, &stdout, &stderr, nil)
		told := strings.HasPrefix(stderr.String(), "edgeproxy: ") || strings.HasPrefix(tc.args, "check")
		if got != tc.want || got != 0 && !told {
			t.Errorf("edgeproxy %s: exit code %d, want %d; stderr %q", tc.args, got, tc.want, stderr.String())
		}
	}
	if got := run([]string{"version"}, nil, full{}, io.Discard, nil); got != 1 {
		t.Errorf("with a full disk behind stdout: exit code %d, want 1", got)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// TestTable: colours are for terminals, columns align, nobody's id moves the cursor.
func TestTable(t *testing.T) {
	var out bytes.Buffer
	c := &cli{stdout: &out}
	err := c.table([]column{{name: "id"}, {"n", true}, {name: "state"}}, [][]cell{
		{{text: "é\x1b[2J"}, {text: "7"}, {text: "up", paint: green}},
		{{text: "longer-id"}, {text: "1000"}, {}},
	})
	const want = "ID            N  STATE\né?[2J         7  up\nlonger-id  1000  -\n"
	if err != nil || out.String() != want {
		t.Errorf("got %q, %v, want %q", out.String(), err, want)
	}
}
