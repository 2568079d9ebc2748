package progress

import (
	"sync/atomic"
	"time"
)

// Span is how long a piece of work takes that one goroutine does again and again:
// what waits for it may be late by twice as long. The zero value has done none.
type Span struct{ last atomic.Pointer[span] }

type span struct {
	began time.Time     // zero: it rests
	took  time.Duration // the piece before, or a longer one before that, if it
	ended time.Time     // ended no longer ago than it took
}

// Begin is called where a piece begins.
func (s *Span) Begin(now time.Time) {
	was := s.load()
	s.last.Store(&span{began: now, took: was.took, ended: was.ended})
}

// End is called where it ends.
func (s *Span) End(now time.Time) {
	was := s.load()
	took := now.Sub(was.began)
	if was.took > took && now.Sub(was.ended) < was.took { // what waited may take several short ones
		s.last.Store(&span{took: was.took, ended: was.ended})
		return
	}
	s.last.Store(&span{took: took, ended: now})
}

// Takes is for how long the piece has been under way that is, or a longer one
// took that ended no longer ago than that.
func (s *Span) Takes(now time.Time) (d time.Duration) {
	was := s.load()
	if !was.began.IsZero() {
		d = now.Sub(was.began)
	}
	if now.Sub(was.ended) < was.took {
		d = max(d, was.took)
	}
	return d
}

func (s *Span) load() span {
	if last := s.last.Load(); last != nil {
		return *last
	}
	return span{}
}
