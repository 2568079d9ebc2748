package mesh

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// with is a row of services whose columns named are set.
func with(columns map[string]any) []any {
	row := service("web")
	for name, v := range columns {
		for i, c := range ServiceColumns {
			if c == name {
				row[i] = v
			}
		}
	}
	return row
}

func TestListening(t *testing.T) {
	full, err := ParseService(with(map[string]any{
		"listen": "443, *:8443 192.0.2.1:443,[2001:db8::1]:443,[::]:80", "mode": "TLS-Terminate", "sni": "A.example.com., *.example.com,a.example.com",
		"alpn": "h2,http/1.1", "affinity_ttl": int64(0), "proxy_protocol": "V2", "connect_timeout_ms": "250", "idle_timeout_secs": int64(90), "max_connections": int64(7),
	}))
	want := Service{
		App: "web", Listen: []string{":443", ":8443", "192.0.2.1:443", "[2001:db8::1]:443", ":80"}, Mode: TLSTerminate,
		SNI: []string{"a.example.com", "*.example.com"}, ALPN: []string{"h2", "http/1.1"}, AffinityTTL: new(time.Duration), ProxyOut: ProxyV2,
		ConnectTimeout: 250 * time.Millisecond, IdleTimeout: 90 * time.Second, MaxConnections: 7,
	}
	if err != nil || !reflect.DeepEqual(full, want) {
		t.Errorf("%+v, %v; want %+v", full, err, want)
	}
	none, err := ParseService(service("web"))
	if err != nil || !reflect.DeepEqual(none, Service{App: "web", Mode: TCP}) {
		t.Errorf("NULLs: %+v, %v", none, err)
	}
	number, err := ParseService(with(map[string]any{"listen": int64(8080)}))
	if err != nil || !reflect.DeepEqual(number.Listen, []string{":8080"}) {
		t.Errorf("a number: %+v, %v", number, err)
	}
}

// TestBadListening: the column is named, what is right beside it counts, and a
// service does not listen in another way than was meant.
func TestBadListening(t *testing.T) {
	for _, c := range []struct {
		columns       map[string]any
		field, says   string
		stillListens  bool
		stillHasLimit bool
	}{
		{map[string]any{"listen": "0"}, "listen", `"0" is no address`, false, true},
		{map[string]any{"listen": "web:80"}, "listen", `"web:80" is no address`, false, true},
		{map[string]any{"listen": ":80,nonsense"}, "listen", `"nonsense" is no address`, true, true},
		{map[string]any{"listen": "[ff02::1]:80"}, "listen", "is no address", false, true},
		{map[string]any{"listen": "fe80::1:80"}, "listen", "is no address", false, true},
		{map[string]any{"listen": strings.Repeat("80,", 17)}, "listen", "17 entries", false, true},
		{map[string]any{"mode": "udp", "listen": ":80"}, "mode", `"udp" is none of`, false, true},
		{map[string]any{"mode": "tls-passthrough", "listen": ":80"}, "sni", "is empty", false, true},
		{map[string]any{"sni": "a.example.com", "listen": ":80"}, "sni", "needs mode", false, true},
		{map[string]any{"mode": "tls-terminate", "listen": ":80", "sni": "a.*.example.com"}, "sni", "is no DNS name", false, true},
		{map[string]any{"mode": "tls-terminate", "listen": ":80", "sni": "good.example,bad..example"}, "sni", "is no DNS name", true, true},
		{map[string]any{"mode": "tls-terminate", "listen": ":80", "sni": "münchen.example"}, "sni", "Punycode", false, true},
		{map[string]any{"mode": "tls-terminate", "listen": ":80", "sni": "192.0.2.1"}, "sni", "is no DNS name", false, true},
		{map[string]any{"listen": ":80", "proxy_protocol": "v3"}, "proxy_protocol", "none of off, v1 and v2", false, true},
		{map[string]any{"listen": ":80", "affinity_ttl": int64(-1)}, "affinity_ttl", "out of range", true, true},
		{map[string]any{"listen": ":80", "max_connections": "many"}, "max_connections", "not a whole number", true, true},
		{map[string]any{"listen": ":80", "alpn": "h2,\x01"}, "alpn", "is no ALPN protocol", true, true},
		{map[string]any{"listen": "\xff"}, "listen", "not valid UTF-8", false, true},
	} {
		c.columns["hard_limit"] = int64(9)
		s, err := ParseService(with(c.columns))
		fe, ok := errors.AsType[*FieldError](err)
		if !ok || fe.Field != c.field || !strings.Contains(fe.Message, c.says) {
			t.Errorf("%q: %v; want %s named: %s", fmt.Sprint(c.columns), err, c.field, c.says)
			continue
		}
		if (s.HardLimit == 9) != c.stillHasLimit || len(s.Listen) > 0 != c.stillListens {
			t.Errorf("%q: %+v", fmt.Sprint(c.columns), s)
		}
	}
}

func TestRegistrations(t *testing.T) {
	rows := Rows{
		Backends: [][]any{row("id", "a"), row("id", "b"), row("id", "c"), row("id", "d")},
		Registrations: [][]any{
			{"a", "sa", int64(61000), int64(1000), int64(30), nil},
			{"b", "sa", int64(61000), int64(1000), nil, "connection refused"},
			{"c", nil, "soon", nil, nil, nil},
			{"nobody", "sa", int64(1), int64(1), nil, nil},
		},
		Expired: map[string]bool{"a": true, "d": true},
		Options: [][]any{{"d", nil, nil, nil, "v1"}, {"c", nil, nil, nil, "v9"}},
	}
	s := NewSnapshot(POP{}, rows, nil)
	a, _ := s.Backend("a")
	if want := (Registration{POP: "sa", Heartbeat: time.UnixMilli(61000), Registered: time.UnixMilli(1000), TTL: 30 * time.Second}); a.Registration == nil || *a.Registration != want || !a.Expired || a.Routable() {
		t.Errorf("a is %+v", a)
	}
	if b, _ := s.Backend("b"); b.Registration == nil || b.Registration.TTL != DefaultTTL || !b.Failing() || b.Expired || b.Routable() {
		t.Errorf("b is %+v", b)
	}
	if c, _ := s.Backend("c"); c.Registration != nil || !c.Routable() || c.ProxyOut != ProxyOff {
		t.Errorf("c is %+v", c)
	}
	if d, _ := s.Backend("d"); d.Registration != nil || d.Expired || !d.Routable() || d.ProxyOut != ProxyV1 {
		t.Errorf("d, which is static, is %+v", d)
	}
	var named []string
	for _, p := range s.Problems {
		named = append(named, p.Table+" "+p.ID+" "+p.Field)
	}
	if want := []string{"backend_options c proxy_protocol", "registrations c heartbeat_ms"}; !reflect.DeepEqual(named, want) {
		t.Errorf("problems %q, want %q", named, want)
	}
}

// FuzzListening: whatever somebody wrote into a row of services, what is taken
// is within bounds and means the same when read again.
func FuzzListening(f *testing.F) {
	f.Add(":443,[::1]:80", "tls-terminate", "a.example.com,*.b.example", "h2", "v2")
	f.Add("[::ffff:0.0.0.0]:80", "", "", "", "")
	f.Fuzz(func(t *testing.T, listen, mode, names, alpn, out string) {
		s, _ := ParseService(with(map[string]any{"listen": listen, "mode": mode, "sni": names, "alpn": alpn, "proxy_protocol": out}))
		if len(s.Listen) > maxListen || len(s.SNI) > maxSNI || len(s.ALPN) > maxALPN || s.Mode != TCP && !s.Mode.TLS() {
			t.Fatalf("%+v", s)
		}
		again, _ := ParseService(with(map[string]any{
			"listen": strings.Join(s.Listen, ","), "mode": string(s.Mode), "sni": strings.Join(s.SNI, ","), "alpn": strings.Join(s.ALPN, ","), "proxy_protocol": s.ProxyOut.String(),
		}))
		if !reflect.DeepEqual(again, s) {
			t.Fatalf("%+v is read again as %+v", s, again)
		}
	})
}
