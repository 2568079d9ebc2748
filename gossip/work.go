package gossip

import (
	"context"
	"errors"
)

// job is a question of the peer's, or ours, that takes the store. One is set.
type job struct {
	pull    *pullFrame
	digest  *digestFrame
	sums    *sumsFrame
	rows    *rowsFrame
	compare bool
}

// maxJobs is more than two peers that keep to the protocol have open: a pull,
// a digest from either side, its sums and its rows.
const maxJobs = 8

// ask queues a job without waiting: this is called where frames are read, and
// the peer must not be able to hold that up.
func (s *stream) ask(j job) error {
	select {
	case s.jobs <- j:
		return nil
	default:
		return errors.New("more questions at once than the protocol has")
	}
}

// work does one job after the other, as fast as the peer takes the answers.
func (s *stream) work(ctx context.Context) {
	for {
		var j job
		select {
		case <-ctx.Done():
			return
		case j = <-s.jobs:
		}
		var err error
		switch {
		case j.pull != nil:
			err = s.answerPull(ctx, *j.pull)
		case j.digest != nil:
			err = s.answerDigest(ctx, *j.digest)
		case j.sums != nil:
			err = s.takeSums(ctx, *j.sums)
		case j.rows != nil:
			err = s.sendRows(ctx, *j.rows)
		case j.compare:
			err = s.beginCompare(ctx)
		}
		if err != nil && ctx.Err() == nil && s.m.mayWarn(s.peer, "work") {
			s.m.log.Error().Err(err).Str("peer", s.node).Msg("question not answered")
		}
	}
}

// emit hands a frame to write and waits until it has it.
func (s *stream) emit(ctx context.Context, frame []byte) error {
	select {
	case s.out <- frame:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
