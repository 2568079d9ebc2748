package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"pgregory.net/rapid"
)

// samples are valid values of each setting, no two the same when parsed.
var samples = map[string][]string{
	"config": {"/a.yaml", "/b.yaml"}, "listen_addr": {":1", "[::1]:2", "0.0.0.0:8080"}, "db_path": {"a.db", "b.db"},
	"region": {"sa", "us", "x-1"}, "db_reload_secs": {"5", "0.5", "60"}, "binding_ttl_secs": {"0", "600", "1"},
	"binding_max": {"1", "2"}, "position": {"0,0", "1.5,-2"}, "node_id": {"a", "b.c"}, "app": {"a", "b"},
	"geoip_path": {"a", "b"}, "cert_dir": {"a", "b"}, "proxy_protocol": {"on", "off"}, "trusted_proxies": {"10.0.0.0/8", "::1,192.0.2.1"},
	"api_addr": {"127.0.0.1:1", "[::1]:2"}, "api_token": {"a", "b"}, "drain_secs": {"0", "30", "7"},
	"gossip_addr": {"127.0.0.1:1", "[::1]:2"}, "sync_addr": {"127.0.0.1:1", "localhost:2"}, "advertise_addr": {"192.0.2.1", "2001:db8::1"},
	"join": {"a.example", "192.0.2.1:7946,[::1]:1"}, "cluster_key": {"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA="}, "insecure": {"true", "false"}, "fanout_limit": {"2", "4096"},
	"connect_timeout_ms": {"1", "2000"}, "connect_attempts": {"1", "10"}, "header_timeout_ms": {"1", "600000"}, "idle_timeout_secs": {"1", "3600"},
	"health_check": {"tcp", "off"}, "panic_threshold": {"0", "100"}, "hard_margin": {"0", "0.03", "0.5"}, "strict_limits": {"on", "off"},
	"wg": {"off", "tun", "netstack"}, "wg_interface": {"wg0", "edge.1"}, "wg_port": {"1", "65535"}, "wg_endpoint": {"none", "192.0.2.1:9", "[2001:db8::1]:9"}, "wg_topology": {"hub-spoke", "hierarchical"},
	"wg_hubs": {"sa-1", "sa-1,us-1"}, "wg_networks": {"fd00:1:2::/48", "10.60.0.0/16,fd50::/48"}, "wg_mtu": {"576", "9000"}, "sync_over": {"direct", "overlay"},
	"dns_addr": {"127.0.0.1:53", ":5353"}, "dns_domain": {"internal", "mesh.example.net"}, "dns_forward": {"192.0.2.1", "192.0.2.1:5353,2001:db8::1"},
	"relay":           {"auto", "reactor", "goroutine"},
	"max_connections": {"0", "100"}, "client_max_connections": {"0", "5"}, "client_max_rate": {"0", "0.5"}, "upgrade_drain_secs": {"0", "60"}, "client_prefix": {"1,128", "32, 64"},
	"allow_backends": {"127.0.0.0/8", "::1,192.0.2.1"}, "heartbeat_ttl_secs": {"1", "60"}, "allow_clients": {"10.0.0.0/8", "::1,192.0.2.1"}, "deny_clients": {"10.0.0.0/8", "::1,192.0.2.1"},
	"linger_timeout_secs": {"1", "60"}, "log_level": {"info", "trace"}, "log_format": {"json", "auto"},
	"access_log": {"true", "false"}, "countries": {"{BR: eu}", "{NO: us}"}, "regions": {`{eu: "1,2"}`, `{eu: "3,4"}`},
}

// given is one setting as its three places have it; nil where one has not.
type given struct {
	s               Setting
	flag, env, file *string
}

func (g given) load(t *rapid.T) *Config {
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	AddFlags(fs)
	// proxy_protocol=on needs somebody to trust. The setting itself is drawn over this.
	env := []string{}
	file := ""
	if g.s.Key == "proxy_protocol" {
		env = append(env, "EDGEPROXY_TRUSTED_PROXIES=192.0.2.1")
	}
	if g.s.Key == "sync_over" {
		env = append(env, "EDGEPROXY_WG=auto") // through what is off nothing goes
	}
	if g.s.Key != configKey {
		env = append(env, "EDGEPROXY_CONFIG=c.yaml")
	}
	if g.flag != nil {
		if err := fs.Parse([]string{"--" + g.s.Flag + "=" + *g.flag}); err != nil {
			t.Fatal(err)
		}
	}
	if g.env != nil {
		env = append(env, g.s.Env()+"="+*g.env)
	}
	if g.file != nil {
		value := *g.file
		if g.s.shape != mapping {
			value = `"` + value + `"`
		}
		file = g.s.FileKey() + ": " + value
	}
	cfg, warnings, err := Load(fs, env, func(string) ([]byte, error) { return []byte(file), nil })
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v %q", err, warnings)
	}
	return cfg
}

// For every setting and whatever the other places hold: the flag wins, then the variable, then the file, then the default.
func TestPrecedence(t *testing.T) {
	for _, s := range Settings() {
		t.Run(s.Key, func(t *testing.T) {
			if len(samples[s.Key]) < 2 {
				t.Fatal("a new setting needs samples")
			}
			rapid.Check(t, func(t *rapid.T) {
				draw := func(place string, possible bool) *string {
					if !possible || !rapid.Bool().Draw(t, place) {
						return nil
					}
					v := rapid.SampledFrom(samples[s.Key]).Draw(t, place+" value")
					return &v
				}
				all := given{s, draw("flag", s.Flag != ""), draw("env", s.Env() != ""), draw("file", s.FileKey() != "")}
				winner, origin := given{s: s}, "default"
				switch {
				case all.flag != nil:
					winner.flag, origin = all.flag, "--"+s.Flag
				case all.env != nil:
					winner.env, origin = all.env, s.Env()
				case all.file != nil:
					winner.file, origin = all.file, s.FileKey()+" in c.yaml"
				}
				got, alone := all.load(t), winner.load(t)
				if !reflect.DeepEqual(s.field.value(got), s.field.value(alone)) {
					t.Fatalf("%v, but alone the winner is %v", s.field.value(got), s.field.value(alone))
				}
				if got.Origin(s.Key) != origin || got.Explicit(s.Key) != (origin != "default") {
					t.Fatalf("origin %q, want %q", got.Origin(s.Key), origin)
				}
				if err := got.Validate(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// Two places mean the same by the same text, different texts differ, and only a setting that is not live is frozen.
func TestSamplesDifferAndFreeze(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom(Settings()).Draw(t, "setting")
		a := rapid.SampledFrom(samples[s.Key]).Draw(t, "a")
		b := rapid.SampledFrom(samples[s.Key]).Draw(t, "b")
		ga, gb := given{s: s, env: &a}, given{s: s, env: &b}
		switch {
		case s.Env() == "":
			ga, gb = given{s: s, file: &a}, given{s: s, file: &b}
		case s.FileKey() != "" && rapid.Bool().Draw(t, "b from the file"):
			gb = given{s: s, file: &b}
		}
		var want []string
		if a != b && !s.Live {
			want = []string{s.Key}
		}
		ca, cb := ga.load(t), gb.load(t)
		if same := reflect.DeepEqual(s.field.value(ca), s.field.value(cb)); same != (a == b) {
			t.Fatalf("same value: %v, same text: %v", same, a == b)
		}
		if got := ca.ChangedFrozen(cb); !reflect.DeepEqual(got, want) {
			t.Fatalf("frozen and changed: %q, want %q", got, want)
		}
	})
}

func TestWhatMayChangeOnSIGHUP(t *testing.T) {
	var live []string
	for _, s := range Settings() {
		if s.Live {
			live = append(live, s.Key)
		}
	}
	want := "binding_ttl_secs trusted_proxies max_connections client_max_connections client_max_rate client_prefix allow_clients deny_clients allow_backends heartbeat_ttl_secs drain_secs upgrade_drain_secs connect_timeout_ms connect_attempts header_timeout_ms health_check panic_threshold hard_margin " +
		"idle_timeout_secs linger_timeout_secs log_level access_log countries regions"
	if got := strings.Join(live, " "); got != want {
		t.Errorf("live are %s", got)
	}
}

// Two neighbours swapped or a letter lost in a name of five or more still finds a name that is one slip away: mostly the
// one meant, but "regiosn" is as near to region as to regions.
func TestNearestFindsSlips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom(Settings()).Filter(func(s Setting) bool { return s.FileKey() != "" && len(s.Key) > 4 }).Draw(t, "setting")
		i := rapid.IntRange(0, len(s.Key)-2).Draw(t, "at")
		swapped := s.Key[:i] + string(s.Key[i+1]) + string(s.Key[i]) + s.Key[i+2:]
		lost := s.Key[:i] + s.Key[i+1:]
		for _, slip := range []string{swapped, lost} {
			hint := unknownHint(slip, Setting.FileKey)
			key := strings.TrimSuffix(strings.TrimPrefix(hint, "did you mean "), "?")
			found, ok := byFileKey(key)
			if !ok || key != s.Key && distance(slip, key) > 1 && distance(slip, fold(found.Flag)) > 1 {
				t.Fatalf("%s: %s", slip, hint)
			}
		}
		for _, other := range []string{"--" + strings.ReplaceAll(s.Key, "_", "-"), "EDGEPROXY_" + strings.ToUpper(s.Key)} {
			if hint := unknownHint(other, Setting.FileKey); hint != "did you mean "+s.Key+"?" {
				t.Fatalf("%s: %s", other, hint)
			}
		}
	})
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"ab", "ba", 1}, {"kitten", "sitting", 3}, {"ca", "abc", 3}} {
		if got, back := distance(tt.a, tt.b), distance(tt.b, tt.a); got != tt.want || back != tt.want {
			t.Errorf("%s, %s: %d and %d, want %d", tt.a, tt.b, got, back, tt.want)
		}
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	cfg, _, err := Load(nil, []string{"EDGEPROXY_API_TOKEN=hunter2"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	js, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.APIToken += "\n"
	for _, s := range []string{
		fmt.Sprintf("%v %+v %#v %s %q %x", *cfg, cfg, cfg, cfg.APIToken, cfg.APIToken, cfg.APIToken),
		string(js), fmt.Sprint(cfg.Validate()),
	} {
		if strings.Contains(s, "hunter2") || strings.Contains(s, fmt.Sprintf("%x", "hunter2")) {
			t.Errorf("it stands in %s", s)
		}
	}
	if _, _, err := load(t, "api_tokn: hunter2", nil); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a misspelt key keeps its secret: %v", err)
	}
	if _, warnings, _ := load(t, "", nil, "EDGEPROXY_API_TOKN=hunter2"); len(warnings) != 1 || strings.Contains(warnings[0], "hunter2") {
		t.Errorf("a misspelt variable keeps its secret: %q", warnings)
	}
}

// FuzzLoad: whatever the file and the environment hold, Load ends in a configuration that is valid, or in lines of text.
func FuzzLoad(f *testing.F) {
	f.Add([]byte("region: us\ncountries: {BR: sa}\nregions: {eu: '1,2'}\n"), "EDGEPROXY_DRAIN_SECS=1e400")
	f.Add([]byte("a: &a [*a]\n<<: *a\n"), "EDGEPROXY_API_TOKEN=@x")
	f.Add([]byte("trusted_proxies: [::1, 10.0.0.1/8]\n\tx: !!int 1"), "EDGEPROXY_REGION=\xff")
	f.Add([]byte("a:\n  # comment\n- b\n---\n...\n"), "EDGEPROXY_POSITION=NaN,1")
	f.Add([]byte("proxy_protocol: on\nbinding_max: 1e9"), "EDGEPROXY_TRUSTED_PROXIES=,::ffff:1.2.3.4/97,")
	f.Fuzz(func(t *testing.T, yaml []byte, variable string) {
		read := func(string) ([]byte, error) { return yaml, nil }
		cfg, warnings, err := Load(nil, []string{"EDGEPROXY_CONFIG=c.yaml", variable}, read)
		if len(warnings) > 1 {
			t.Errorf("one variable, %d warnings", len(warnings))
		}
		if err != nil {
			var problems Problems
			if cfg != nil || !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("%v %#v", cfg, err)
			}
			for _, p := range problems {
				if p.Source == "" || p.Message == "" {
					t.Errorf("says nothing: %+v", p)
				}
			}
			if lines := strings.Count(err.Error(), "\n") + 1; lines != len(problems) {
				t.Errorf("%d problems in %d lines", len(problems), lines)
			}
			return
		}
		for range 2 { // valid, and looking changes nothing
			if err := cfg.Validate(); err != nil {
				t.Fatalf("Load let through: %v", err)
			}
		}
		if changed := cfg.ChangedFrozen(cfg); changed != nil {
			t.Errorf("differs from itself: %q", changed)
		}
	})
}
