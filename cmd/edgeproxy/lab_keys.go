package main

import (
	"context"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/node/lab"
)

const keyHelp = "keys: k backend dies / comes back   p POP is cut off / put back   w weight   d drain / end it   j POP joins   q quit"

// verbs of the keys; the lab takes the counterpart of what is there already.
var keys = map[rune]string{'k': "kill", 'p': "cut", 'w': "weight", 'd': "drain", 'j': "join"}

// readKeys reads keys from the screen until q or the end of ctx, which it
// then calls stop for, unless steps tells the lab; end waits for it. Without
// steps, keys only end the lab.
func (l *labRun) readKeys(ctx context.Context, stop func(), steps chan<- lab.Step) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		switch quit := l.follow(ctx, steps); {
		case steps != nil && quit:
			close(steps) // an end in order, with all verdicts
		case ctx.Err() == nil:
			stop()
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// follow turns keys into steps, and says whether somebody wants to quit: true
// by q, false by Ctrl-C or because the terminal has gone.
func (l *labRun) follow(ctx context.Context, steps chan<- lab.Step) (quit bool) {
	for ctx.Err() == nil {
		pressed, gone := l.screen.pressed(50 * time.Millisecond)
		switch {
		case gone || strings.Contains(pressed, ctrlC):
			return false
		case strings.ContainsAny(pressed, "qQ"):
			return true
		}
		for _, key := range pressed {
			if verb, ok := keys[key]; ok && steps != nil {
				select {
				case steps <- lab.Step{Verb: verb}:
				default: // more than fit are waiting
				}
			}
		}
	}
	return false
}
