package feed

import (
	"strings"
	"testing"
)

func FuzzWatchID(f *testing.F) {
	for _, s := range []string{"sa-1f2e3d4c/17/4711", "a/b/1/2", "/1/2", "a/01/2", "a/1/-2", "a/1/18446744073709551616", "a/1/2\n", "", "///"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseID(text)
		if err != nil {
			return
		}
		if id.String() != text || id.Node == "" {
			t.Errorf("%q is read as %+v, which is %q", text, id, id.String())
		}
		l := NewLog("sa-1f2e3d4c", 17)
		l.Put(key("a"), "", nil, start)
		if e := l.Next(l.Open(&id, Filter{}), 10); len(e) == 0 || e[len(e)-1].Type != Ready {
			t.Errorf("%q: a stream that is never ready: %s", text, told(e))
		}
	})
}

func TestParseID(t *testing.T) {
	for text, want := range map[string]ID{"sa-1/17/4711": {"sa-1", 17, 4711}, "a/b/0/18446744073709551615": {"a/b", 0, 1<<64 - 1}} {
		if id, err := ParseID(text); err != nil || id != want {
			t.Errorf("%q: %+v, %v, want %+v", text, id, err, want)
		}
	}
	for _, text := range []string{"", "17", "a/17", "/17/1", "a/17/", "a//1", "a/+17/1", "a/017/1", "a/17/1 ", "a\n/17/1", strings.Repeat("a", maxID) + "/1/1"} {
		if id, err := ParseID(text); err == nil {
			t.Errorf("%q is taken for %+v", text, id)
		}
	}
}
