package mesh

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseCheck(t *testing.T) {
	http := DefaultCheck
	http.Kind, http.Path, http.From, http.Below = CheckHTTP, "/", 200, 400
	full := Check{Kind: CheckHTTP, Port: 8081, Interval: 10 * time.Second, Timeout: 500 * time.Millisecond, Rise: 1, Fall: 5,
		Path: "/health?x=1", Host: "example.net:80", From: 200, Below: 300}
	once := http
	once.From, once.Below = 204, 205
	slow := DefaultCheck
	slow.Interval = time.Minute
	for text, want := range map[string]Check{
		"tcp":                DefaultCheck,
		"off":                {Kind: CheckOff},
		" tcp  interval=1m ": slow,
		"http":               http,
		"http status=204":    once,
		"http path=/health?x=1 status=200-299 interval=10s timeout=500ms rise=1 fall=5 port=8081 host=example.net:80": full,
	} {
		got, err := ParseCheck(text)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
		if again, err := ParseCheck(got.String()); err != nil || again != got {
			t.Errorf("%q is written as %q, which reads as %+v, %v", text, got, again, err)
		}
	}
}

// TestBadChecks: each error names what is wrong, and says what is allowed.
func TestBadChecks(t *testing.T) {
	for text, word := range map[string]string{
		"":                                     "empty",
		"   ":                                  "empty",
		"icmp":                                 "icmp",
		"HTTP":                                 "HTTP",
		"off interval=5s":                      "off",
		"tcp path=/health":                     "path",
		"tcp interval":                         "interval",
		"tcp interval=5":                       "interval",
		"tcp interval=1ns":                     "interval",
		"tcp interval=2h":                      "interval",
		"tcp interval=-5s":                     "interval",
		"tcp timeout=2m":                       "timeout",
		"tcp rise=0":                           "rise",
		"tcp rise=2 rise=3":                    "twice",
		"tcp fall=1000000000000000000000":      "fall",
		"tcp port=65536":                       "port",
		"http path=health":                     "path",
		"http path=/a\x00b":                    "path",
		"http path=/%zz":                       "path",
		"http path=/a#b":                       "path",
		"http path=/é":                         "path",
		"http host=a/b":                        "host",
		"http host=":                           "host",
		"http status=99":                       "status",
		"http status=300-200":                  "status",
		"http status=200-":                     "status",
		"http colour=red":                      "colour",
		"tcp " + strings.Repeat("x", megabyte): "long",
		"http interval=1h path=/" + strings.Repeat("a", 1000): "long", // written as 1h0m0s
	} {
		c, err := ParseCheck(text)
		if err == nil || !strings.Contains(err.Error(), word) || !strings.Contains(err.Error(), "want off, tcp or http") || len(err.Error()) > 1000 {
			t.Errorf("%.40q: %+v, %.300v; want %q named and what is allowed", text, c, err, word)
		}
	}
}

// FuzzParseCheck: whatever somebody wrote into a row, what is taken is within
// bounds and means the same when written down and read again.
func FuzzParseCheck(f *testing.F) {
	f.Add("off")
	f.Add("tcp interval=2s port=1")
	f.Add("http interval=1h path=/" + strings.Repeat("a", maxCheck-len("http interval=1h path=/")))
	f.Add("http path=/health status=200-299 interval=5s timeout=2s rise=2 fall=3 port=8081 host=a.example")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCheck(text)
		if err != nil {
			return
		}
		if again, err := ParseCheck(c.String()); err != nil || again != c {
			t.Fatalf("%q is written as %q, which reads as %+v, %v", text, c, again, err)
		}
		if c.Kind == CheckOff {
			return
		}
		if c.Interval < minInterval || c.Interval > maxInterval || c.Timeout < minTimeout || c.Timeout > maxTimeout || c.Rise < 1 || c.Fall < 1 {
			t.Fatalf("%q: %+v", text, c)
		}
		if strings.ContainsAny(c.Path+c.Host, "\r\n \x00") {
			t.Fatalf("%q: %+v", text, c)
		}
	})
}

// TestServices: what a service says holds for its backends that say nothing
// themselves; of a bad row the rest counts, and the bad part is named.
func TestServices(t *testing.T) {
	rows := Rows{
		Backends: [][]any{
			{"own", "web", "sa", "10.50.1.1", int64(80), nil, nil, int64(7), int64(8), nil},
			{"heir", "web", "sa", "10.50.1.1", int64(80), nil, nil, nil, nil, nil},
			{"other", "db", "sa", "10.50.1.1", int64(80), nil, nil, nil, nil, nil},
			{"alone", "", "sa", "10.50.1.1", int64(80), nil, nil, nil, nil, nil},
		},
		Options: [][]any{{"own", nil, nil, "off", nil}, {"other", nil, nil, "icmp", nil}},
		Services: [][]any{
			service("web", "http path=/health", int64(50), int64(70), int64(80)),
			service("db", "tcp interval=soon", nil, int64(30), int64(-1)),
			service("web", "off", nil, nil, nil),
			service(nil, "off", nil, nil, nil),
		},
	}
	s := NewSnapshot(POP{}, rows, nil)
	type said struct {
		check      string
		soft, hard int64
	}
	got := map[string]said{}
	for _, b := range s.Backends {
		v := said{"default", b.SoftLimit, b.HardLimit}
		if b.Check != nil {
			v.check = b.Check.String()
		}
		got[b.ID] = v
	}
	want := map[string]said{
		"own": {"off", 7, 8}, "heir": {"http path=/health", 70, 80}, "other": {"default", 30, 0}, "alone": {"default", 1, 0},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if web, db := s.Service("web"), s.Service("db"); web.Panic == nil || *web.Panic != 50 || db.Panic != nil {
		t.Errorf("panic of %+v and %+v", web, db)
	}
	var named []string
	for _, p := range s.Problems {
		named = append(named, p.Table+" "+p.ID+" "+p.Field)
	}
	wantNamed := []string{"services db health_check", "services db hard_limit", "services row 4 (NULL id) app", "services web app", "backend_options other health_check"}
	if !reflect.DeepEqual(named, wantNamed) {
		t.Errorf("problems %q, want %q", named, wantNamed)
	}
	if _, err := ParseService([]any{"a"}); !errors.As(err, new(*FieldError)) {
		t.Errorf("a row of one column: %v", err)
	}
}

// service is a row of the table services: the values given, and NULL behind them.
func service(values ...any) []any {
	return append(values, make([]any, len(ServiceColumns)-len(values))...)
}
