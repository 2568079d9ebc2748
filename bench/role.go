//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
)

// Helper processes are this binary again with roleFlag. They take JSON lines on stdin and answer each with one on stdout;
// when stdin ends, they end.
const (
	roleLoad    = "load"
	roleBackend = "backend"
)

// helperEnv keeps the Go runtime from interrupting loops that it cannot see waiting.
const helperEnv = "GODEBUG=asyncpreemptoff=1"

// workers is the number of loops in the load generator and in the backend: together as many as there are cores, at most
// four each. The proxies have two threads.
func workers() int { return min(max(runtime.NumCPU()/2, 1), 4) }

// runRole is main of a helper process.
func runRole(role string) int {
	debug.SetGCPercent(-1)              // a loop that waits in the kernel cannot be stopped for it
	runtime.GOMAXPROCS(2*workers() + 2) // every loop holds a P while it waits
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var err error
	switch role {
	case roleLoad:
		err = answerEach(in, out, new(generator).do)
	case roleBackend:
		err = answerEach(in, out, func(j backendJob) backendReply {
			if err := startBackend(j); err != nil {
				return backendReply{Err: err.Error()}
			}
			return backendReply{}
		})
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench %s: %v\n", role, err)
		return 1
	}
	return 0
}

func answerEach[Q, A any](in *json.Decoder, out *json.Encoder, do func(Q) A) error {
	for {
		var q Q
		if err := in.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := out.Encode(do(q)); err != nil {
			return err
		}
	}
}
