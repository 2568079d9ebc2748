package config

import (
	"errors"
	"strings"
	"testing"
)

func TestEveryProblemAtOnce(t *testing.T) {
	_, warnings, err := load(t, "regoin: us\ndrain_secs: soon\ncountries:\n  BR: sa\n  Brazil: sa\n", []string{"--listen", "example.net:80"},
		"EDGEPROXY_CONNECT_ATTEMPTS=11", "EDGEPROXY_LOG_LEVEL=loud", "EDGEPROXY_API_ADDR=0.0.0.0:1", "EDGEPROXY_TLS_ENABLED=1")
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatalf("error is %T: %v", err, err)
	}
	want := []struct{ key, source, value, message, hint string }{
		{"", "regoin in " + path + ", line 1", "", "unknown key", "did you mean region?"},
		{"listen_addr", "--listen", `"example.net:80"`, "IP address", ":80"},
		{"drain_secs", "drain_secs in " + path + ", line 2", `"soon"`, "seconds, 0 to 31536000", ""},
		{"connect_attempts", "EDGEPROXY_CONNECT_ATTEMPTS", `"11"`, "1 to 10", ""},
		{"log_level", "EDGEPROXY_LOG_LEVEL", `"loud"`, "trace, debug, info, warn or error", ""},
		{"countries", "countries.Brazil in " + path + ", line 5", `"sa"`, "two letters", "BR"},
		{"api_addr", "EDGEPROXY_API_ADDR", `"0.0.0.0:1"`, "needs api_token", "EDGEPROXY_API_TOKEN"},
	}
	if len(problems) != len(want) || strings.Count(err.Error(), "\n") != len(want)-1 {
		t.Fatalf("%d problems, want %d, one a line:\n%v", len(problems), len(want), err)
	}
	for i, w := range want {
		p := problems[i]
		if p.Key != w.key || p.Source != w.source || p.Value != w.value || !strings.Contains(p.Message, w.message) || !strings.Contains(p.Hint, w.hint) {
			t.Errorf("problem %d is\n%+v, want\n%+v", i, p, w)
		}
		if line := strings.Split(err.Error(), "\n")[i]; !strings.HasPrefix(line, w.source+": "+w.value) || !strings.HasSuffix(line, p.Hint) {
			t.Errorf("line %d is %q", i, line)
		}
	}
	if len(warnings) != 1 {
		t.Errorf("warnings come with an error too: %q", warnings)
	}
}

func TestValues(t *testing.T) {
	long := strings.Repeat("a", 64)
	for variable, values := range map[string]struct{ good, bad []string }{
		"LISTEN_ADDR": {
			[]string{":0", ":65535", "0.0.0.0:80", "[::]:80", "[fe80::1%eth0]:80", "localhost:80", "LOCALHOST:80", " :80 "},
			[]string{"8080", "::1:8080x", "::1", ":65536", ":-1", ":+1", ":http", "example.net:80", "127.1:80", "256.0.0.1:80", "a:b:c", "[::1]", ":"},
		},
		"REGION": {[]string{"sa", "EU", "us-east_1", long[:32]}, []string{" ", "s a", "é", "\u212A", long[:33], "a.b"}},
		"DB_RELOAD_SECS": {[]string{"5", "0.1", "1e2"},
			[]string{"0", "-1", "5s", "NaN", "inf", "1e400", "-1e400", "31536001", "1e-12", "five", "1,5"}},
		"BINDING_TTL_SECS": {[]string{"0", "600"}, []string{"-1", "-0.1", "10m"}},
		"BINDING_MAX":      {[]string{"1", "1073741824"}, []string{"0", "-1", "1.5", "1073741825", "99999999999999999999", "1e3"}},
		"POSITION":         {[]string{"0,0", "-90,-180", "90, 180"}, []string{"91,0", "0,181", "NaN,0", "1", "1,2,3", "a,b", "1;2", ","}},
		"NODE_ID":          {[]string{"sa-1", "A.b_c", long[:63]}, []string{long, "a b", "é", "a/b"}},
		"PROXY_PROTOCOL":   {[]string{"off", "False", "no", "0"}, []string{"v2", "2", " "}},
		"TRUSTED_PROXIES":  {[]string{"10.0.0.0/8", "10.1.2.3", "::1, 10.0.0.0/8,", "0.0.0.0/0", "::ffff:10.0.0.0/104"}, []string{"10.0.0.1/8", "10.0.0.0/33", "lb.example.net", "fe80::1%eth0", "10.0.0.0/8 ::1"}},
		"FANOUT_LIMIT":     {[]string{"2", "4096"}, []string{"1", "0", "-1", "4097", "x"}},
		"JOIN":             {[]string{"a", "sa.example.net:7946, 192.0.2.1,", "[::1]:1", "::1", "[::1]"}, []string{"a b", "a:b", "a:70000", "http://a", "é", "-a"}},
		"CLUSTER_KEY": {[]string{strings.Repeat("A", 43) + "=", strings.Repeat("A", 43)},
			[]string{strings.Repeat("A", 42) + "==", "secret", strings.Repeat("A", 64)}},
		"ADVERTISE_ADDR":      {[]string{"192.0.2.1", "2001:db8::1"}, []string{"0.0.0.0", "::", "sa.example.net", "192.0.2.1:7946", "224.0.0.1"}},
		"GOSSIP_ADDR":         {[]string{"127.0.0.1:0", "localhost:7946"}, []string{"0.0.0.0:7946", "10.0.0.1:1", "7946"}},
		"SYNC_ADDR":           {[]string{"127.0.0.1:0"}, []string{":7947"}},
		"API_ADDR":            {[]string{"127.9.9.9:1", "[::1]:1", "localhost:1", "[::ffff:127.0.0.1]:1"}, []string{":8180", "0.0.0.0:1", "10.0.0.1:1", "[::]:1"}},
		"DRAIN_SECS":          {[]string{"0"}, []string{"-1"}},
		"CONNECT_TIMEOUT_MS":  {[]string{"0.5", "600000"}, []string{"0", "600001", "2s"}},
		"CONNECT_ATTEMPTS":    {[]string{"1", "10"}, []string{"0", "11", "three"}},
		"IDLE_TIMEOUT_SECS":   {[]string{"1"}, []string{"0"}},
		"LINGER_TIMEOUT_SECS": {[]string{"1"}, []string{"0"}},
		"HEALTH_CHECK":        {[]string{"off", "tcp", "http path=/health status=200-299"}, []string{" ", "bogus", "tcp interval=soon", "tcp path=/", "off now"}},
		"LOG_LEVEL":           {[]string{"trace", "debug", "info", "warn", "Error"}, []string{"fatal", "warning"}},
		"LOG_FORMAT":          {[]string{"auto", "console", "JSON"}, []string{"text"}},
		"ACCESS_LOG":          {[]string{"true", "off"}, []string{"maybe"}},
		"APP":                 {[]string{"myapp", "größe"}, []string{"a\nb", "a\x00", "\xff"}},
		"DB_PATH":             {[]string{"x", "/a b/c.db"}, []string{" ", "a\tb"}},
	} {
		for _, v := range values.good {
			if cfg, _, err := load(t, "", nil, "EDGEPROXY_"+variable+"="+v); err != nil {
				t.Errorf("good: %v", err)
			} else if err := cfg.Validate(); err != nil {
				t.Errorf("%s=%q loads but is not valid: %v", variable, v, err)
			}
		}
		for _, v := range values.bad {
			_, _, err := load(t, "", nil, "EDGEPROXY_"+variable+"="+v)
			var problems Problems
			if !errors.As(err, &problems) || len(problems) != 1 || problems[0].Source != "EDGEPROXY_"+variable {
				t.Errorf("bad %s=%q: want one problem that names it, got %v", variable, v, err)
			}
		}
	}
}

func TestHintsSayWhatToWrite(t *testing.T) {
	for entry, hint := range map[string]string{
		"EDGEPROXY_LISTEN_ADDR=8080":           "write :8080",
		"EDGEPROXY_LISTEN_ADDR=::1:8080":       "[::1]:8080",
		"EDGEPROXY_DRAIN_SECS=1m30s":           "write 90,",
		"EDGEPROXY_CONNECT_TIMEOUT_MS=2s":      "write 2000,",
		"EDGEPROXY_POSITION=-46.63,-123.55,1":  "latitude first",
		"EDGEPROXY_DNS_FORWARD=dns.example":    "192.0.2.53",
		"EDGEPROXY_DNS_FORWARD=0.0.0.0":        "192.0.2.53",
		"EDGEPROXY_DNS_DOMAIN=a..b":            "internal",
		"EDGEPROXY_TRUSTED_PROXIES=10.0.0.1/8": "10.0.0.0/8 for the net or 10.0.0.1 for the host",
	} {
		if _, _, err := load(t, "", nil, entry); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: %v, want %q in it", entry, err, hint)
		}
	}
}

func TestRulesBetweenSettings(t *testing.T) {
	for _, tt := range []struct {
		name, yaml, env, want string
	}{
		{"PROXY headers of everybody", "", "EDGEPROXY_PROXY_PROTOCOL=on", "EDGEPROXY_TRUSTED_PROXIES"},
		{"an empty list is none", "trusted_proxies: []", "EDGEPROXY_PROXY_PROTOCOL=on", "EDGEPROXY_TRUSTED_PROXIES"},
		{"PROXY headers of some", "trusted_proxies: 192.0.2.1", "EDGEPROXY_PROXY_PROTOCOL=on", ""},
		{"open API", "api_addr: :8180", "", "EDGEPROXY_API_TOKEN"},
		{"open gossip", "gossip_addr: :7946", "", "keygen"},
		{"open gossip on purpose", "sync_addr: :7946", "EDGEPROXY_INSECURE=true", ""},
		{"gossip with a key", "sync_addr: :7946", "EDGEPROXY_CLUSTER_KEY=" + strings.Repeat("A", 43) + "=", ""},
		{"a key that does not matter", "insecure: true", "EDGEPROXY_CLUSTER_KEY=" + strings.Repeat("A", 43) + "=", "contradicts"},
		{"names forwarded to itself", "dns_addr: 127.0.0.1:53", "EDGEPROXY_DNS_FORWARD=192.0.2.1,127.0.0.1", "own DNS server"},
		{"API with a token", "api_addr: :8180", "EDGEPROXY_API_TOKEN=x", ""},
	} {
		_, _, err := load(t, tt.yaml, nil, tt.env)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	// What is missing may be what could not be read: one cause, one message.
	for _, tt := range []struct{ yaml, env string }{
		{"api_token: [x]", "EDGEPROXY_API_ADDR=:1"},
		{"api_token: @missing", "EDGEPROXY_API_ADDR=:1"}, // @ cannot begin a plain YAML scalar
		{"cluster_key: x", "EDGEPROXY_GOSSIP_ADDR=:1"},
		{"trusted_proxies: lb.example.net", "EDGEPROXY_PROXY_PROTOCOL=on"},
		{"\ttrusted_proxies: 192.0.2.1", "EDGEPROXY_PROXY_PROTOCOL=on"},
	} {
		_, _, err := load(t, tt.yaml, nil, tt.env)
		if err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: want one problem, got %v", tt.yaml, err)
		}
	}
}

func TestValidateOfAConfigMadeByHand(t *testing.T) {
	cfg, _, err := Load(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Region, cfg.ConnectAttempts, cfg.APIAddr = "SA", 0, "0.0.0.0:1"
	cfg.Countries = map[string]string{"br": "sa"}
	cfg.Position = &[2]float64{91, 0}
	var problems Problems
	if !errors.As(cfg.Validate(), &problems) {
		t.Fatal("want Problems")
	}
	var keys []string
	for _, p := range problems {
		keys = append(keys, p.Key)
	}
	if got := strings.Join(keys, " "); got != "region position connect_attempts countries api_addr" {
		t.Errorf("problems with %s", got)
	}
	if (&Config{}).Validate() == nil {
		t.Error("the zero Config has no database")
	}
}
