package progress

import "testing"

func TestWatch(t *testing.T) {
	var l Loop
	w := Watch{At: l.At}
	look := func(what string, want int) {
		t.Helper()
		if got := w.Look(); got != want {
			t.Errorf("%s: %d looks, want %d", what, got, want)
		}
	}
	look("idle", 0)
	look("idle", 0)
	l.Begin()
	look("new work", 0)
	look("the same", 1)
	look("the same", 2)
	l.End()
	l.Begin()
	look("other work", 0)
	look("the same", 1)
	Step(With(t.Context(), &l))
	look("another step", 0)
	look("the same", 1)
	Step(t.Context())
	look("a step of somebody else", 2)
	l.End()
	look("idle", 0)
	look("idle", 0)
}
