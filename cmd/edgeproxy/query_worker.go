package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/node"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

const (
	workerCommand = "run-query"
	// workerMemory is what the process may take beside what it began with.
	workerMemory = 256 << 20
	// workerEnds is when it ends itself, where nobody else has ended it.
	workerEnds = 20 * time.Second
	// workerCPU is how many seconds of CPU time it has, then the kernel ends it.
	workerCPU = 5
	// workerNice is its priority: clients of the POP come first.
	workerNice = 5
)

// queryCommand is this binary as the process of a query, whatever is at its
// path now. It inherits nothing that it has no need of.
func queryCommand(ctx context.Context) *exec.Cmd {
	path := "/proc/self/exe"
	if runtime.GOOS != "linux" {
		path, _ = os.Executable() // then the start says what is wrong
	}
	cmd := exec.CommandContext(ctx, path, workerCommand)
	cmd.Env = []string{"GOMAXPROCS=1"}
	for _, name := range []string{"GOCOVERDIR", "GORACE"} {
		if v := os.Getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	return cmd
}

func newQueryWorker(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:    workerCommand,
		Hidden: true,
		Short:  "Run one query for a POP",
		Long: `Runs one query for the POP that starts it, so that its memory and time are
bounded apart from those of the POP: {"db":"routing.db","sql":"SELECT 1"} on
stdin, which stays open, the answer on stdout. People use "edgeproxy query".`,
		Example:           `  edgeproxy run-query`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			time.AfterFunc(workerEnds, func() { os.Exit(1) })
			if err := boundMyself(); err != nil {
				return err
			}
			in := bufio.NewReader(cmd.InOrStdin())
			line, err := in.ReadBytes('\n')
			var request node.QueryRequest
			if err == nil {
				err = json.Unmarshal(line, &request)
			}
			if err != nil {
				return fmt.Errorf("read the query: %w", err)
			}
			go func() { // until the process ends: nobody waits for the answer any more
				_, _ = io.Copy(io.Discard, in)
				os.Exit(1)
			}()
			return c.jsonLine(node.RunQuery(cmd.Context(), request))
		},
	}
}

// boundMyself keeps this process from taking much memory, from writing files,
// and has the kernel end it before the POP where memory runs out, and run it
// behind it.
func boundMyself() error {
	lowerPriority()
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0) // Linux only
	signal.Ignore(syscall.SIGXFSZ)
	limits := map[int]uint64{unix.RLIMIT_FSIZE: 0, unix.RLIMIT_CORE: 0, unix.RLIMIT_CPU: workerCPU}
	if now := dataSize(); now > 0 {
		limits[unix.RLIMIT_DATA] = now + workerMemory
	}
	for what, most := range limits {
		var l unix.Rlimit
		if err := unix.Getrlimit(what, &l); err != nil {
			return fmt.Errorf("bound this process: %w", err)
		}
		most = min(most, l.Max)
		if err := unix.Setrlimit(what, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return fmt.Errorf("bound this process: %w", err)
		}
	}
	return nil
}

// lowerPriority is for all threads: on Linux each has its own, and new ones that
// of the thread which makes them.
func lowerPriority() {
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, workerNice)
	threads, _ := os.ReadDir("/proc/self/task") // none but on Linux
	for _, thread := range threads {
		if id, err := strconv.Atoi(thread.Name()); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, id, workerNice)
		}
	}
}

// dataSize is what of this process counts for RLIMIT_DATA; 0 where the system
// does not tell.
func dataSize() uint64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(status) {
		if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == "VmData:" {
			kb, _ := strconv.ParseUint(string(fields[1]), 10, 64)
			return kb << 10
		}
	}
	return 0
}
