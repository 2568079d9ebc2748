package mmdb

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/maxmind/mmdbwriter"
)

// one is a database in which 200.160.2.3 lies in the given country.
func one(t testing.TB, code string) []byte {
	return build(t, mmdbwriter.Options{DatabaseType: "Test-" + code}, networks{"200.0.0.0/8": flat(code), "1.0.0.0/8": country("AU")})
}

// news is one call of OnReload.
type news struct {
	info Info
	err  error
}

// watched runs a Resolver on path inside a synctest bubble and gives the news that came since the last call.
func watched(t *testing.T, path string, poll time.Duration) (r *Resolver, since func() []news) {
	t.Helper()
	var mu sync.Mutex
	var all []news
	r = resolver(t, Config{Path: path, Poll: poll, OnReload: func(info Info, err error) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, news{info, err})
	}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	synctest.Wait()
	return r, func() []news {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		got := all
		all = nil
		return got
	}
}

func wantCountry(t *testing.T, r *Resolver, code string) {
	t.Helper()
	if got := r.Lookup(addr("200.160.2.3")); got.Country != code {
		t.Errorf("Lookup = %+v, want %s", got, code)
	}
}

func TestRunRename(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := file(t, one(t, "BR"))
		r, since := watched(t, path, 0)
		time.Sleep(5 * DefaultPoll)
		if got := since(); len(got) != 0 {
			t.Errorf("news of a file that did not change: %+v", got)
		}
		write(t, path, one(t, "DE"))
		time.Sleep(DefaultPoll + DefaultPoll/2)
		wantCountry(t, r, "BR") // seen once: not yet settled
		time.Sleep(DefaultPoll)
		got := since()
		wantCountry(t, r, "DE")
		if len(got) != 1 || got[0].err != nil || got[0].info != r.Info() || got[0].info.Type != "Test-DE" || r.Err() != nil {
			t.Errorf("news %+v, Info %+v, Err %v", got, r.Info(), r.Err())
		}
		time.Sleep(5 * DefaultPoll)
		if got := since(); len(got) != 0 {
			t.Errorf("the same file was news again: %+v", got)
		}
	})
}

// TestRunInPlace: a slow copy over the file is read once, when it is complete.
func TestRunInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := file(t, one(t, "BR"))
		r, since := watched(t, path, time.Second)
		next := one(t, "DE")
		time.Sleep(time.Second / 2) // from here on, writes fall between polls
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for part := next; len(part) > 0; {
			n := min(len(part), 100)
			if _, err := f.Write(part[:n]); err != nil {
				t.Fatal(err)
			}
			part = part[n:]
			time.Sleep(time.Second) // the file is larger at every poll
			wantCountry(t, r, "BR")
		}
		if got := since(); len(got) != 0 {
			t.Errorf("news during the copy: %+v", got)
		}
		time.Sleep(2 * time.Second)
		got := since()
		wantCountry(t, r, "DE")
		if len(got) != 1 || got[0].err != nil {
			t.Errorf("news after the copy: %+v", got)
		}
	})
}

func TestRunBrokenReplacement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := file(t, one(t, "BR"))
		r, since := watched(t, path, time.Second)
		write(t, path, []byte("not a database\n"))
		time.Sleep(10 * time.Second)
		got := since()
		wantCountry(t, r, "BR")
		if len(got) != 1 || got[0].err == nil || got[0].info.Type != "Test-BR" {
			t.Fatalf("news of a broken file: %+v, want one failure", got)
		}
		for _, want := range []string{path, "is text", "Test-BR built 2026-05-04 stays in use"} {
			if !strings.Contains(got[0].err.Error(), want) {
				t.Errorf("error %q does not say %q", got[0].err, want)
			}
		}
		if !errors.Is(r.Err(), got[0].err) {
			t.Errorf("Err = %v, want %v", r.Err(), got[0].err)
		}

		write(t, path, []byte("not a database either\n"))
		time.Sleep(10 * time.Second)
		if got := since(); len(got) != 1 || got[0].err == nil {
			t.Errorf("news of another broken file: %+v, want one failure", got)
		}

		write(t, path, one(t, "DE"))
		time.Sleep(3 * time.Second)
		got = since()
		wantCountry(t, r, "DE")
		if len(got) != 1 || got[0].err != nil || r.Err() != nil {
			t.Errorf("news of a good file: %+v, Err %v", got, r.Err())
		}
	})
}

// TestRunMissing: while the file is gone the old database serves; it is said once, and the return of the very same file
// ends it, which must not be taken for no change.
func TestRunMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := file(t, one(t, "BR"))
		r, since := watched(t, path, time.Second)
		away := filepath.Join(t.TempDir(), "away")
		if err := os.Rename(path, away); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		got := since()
		wantCountry(t, r, "BR")
		if len(got) != 1 || !errors.Is(got[0].err, fs.ErrNotExist) || !errors.Is(r.Err(), fs.ErrNotExist) {
			t.Errorf("news of a missing file: %+v, Err %v", got, r.Err())
		}
		if err := os.Rename(away, path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if got := since(); len(got) != 1 || got[0].err != nil || r.Err() != nil {
			t.Errorf("news of its return: %+v, Err %v", got, r.Err())
		}
	})
}

// TestRunGap: a tool that deletes first and writes then leaves a gap, which is no news if it is short.
func TestRunGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := file(t, one(t, "BR"))
		r, since := watched(t, path, time.Second)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond) // one poll sees no file
		write(t, path, one(t, "DE"))
		time.Sleep(3 * time.Second)
		got := since()
		wantCountry(t, r, "DE")
		if len(got) != 1 || got[0].err != nil {
			t.Errorf("news: %+v, want one success", got)
		}
	})
}

func TestRunEmbedded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := resolver(t, Config{OnReload: func(Info, error) { t.Error("news of the embedded database") }})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := r.Run(ctx); err != nil || ctx.Err() == nil {
			t.Errorf("Run = %v before its context ended (%v)", err, ctx.Err())
		}
	})
}

func TestReload(t *testing.T) {
	path := file(t, one(t, "BR"))
	r := resolver(t, Config{Path: path, OnReload: func(Info, error) { t.Error("Reload called OnReload") }})
	write(t, path, one(t, "DE")[:100])
	err := r.Reload()
	if err == nil || !errors.Is(r.Err(), err) {
		t.Errorf("Reload = %v, Err = %v", err, r.Err())
	}
	wantCountry(t, r, "BR")
	write(t, path, one(t, "DE"))
	if err := r.Reload(); err != nil || r.Err() != nil {
		t.Errorf("Reload = %v, Err = %v", err, r.Err())
	}
	wantCountry(t, r, "DE")
}
