package main

import (
	"context"
	"os/signal"
	"syscall"
	"time"
)

// sameWord is for how long signals to end after the first one are taken for the
// same word: timeout(1) of coreutils signals its child, and then the group that
// the child is in. Later ones mean that it shall end at once.
const sameWord = 250 * time.Millisecond

// untilSignal ends with SIGTERM or SIGINT. A second one, no sooner than sameWord
// after the first, ends the process as if nothing waited for signals.
func untilSignal(ctx context.Context) context.Context {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	// stop is not called when the work is done: the process ends then, and a
	// signal that comes late would make it look as if it had been killed.
	context.AfterFunc(ctx, func() { time.AfterFunc(sameWord, stop) })
	return ctx
}
