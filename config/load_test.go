package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

const path = "/etc/edgeproxy.yaml"

// load runs Load as the program does: args on the command line, env as NAME=value, and one file at path.
func load(t *testing.T, yaml string, args []string, env ...string) (*Config, []string, error) {
	t.Helper()
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	AddFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	if yaml != "" {
		env = append([]string{"EDGEPROXY_CONFIG=" + path}, env...)
	}
	return Load(fs, env, files{path: yaml}.read)
}

// files is a file system as a value.
type files map[string]string

func (f files) read(name string) ([]byte, error) {
	if text, ok := f[name]; ok {
		return []byte(text), nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func TestDefaults(t *testing.T) {
	got, warnings, err := Load(nil, nil, nil)
	if err != nil || warnings != nil {
		t.Fatalf("err %v, warnings %q", err, warnings)
	}
	want := &Config{
		Listen: "0.0.0.0:8080", DBPath: "routing.db", Region: "sa", DBReload: 5 * time.Second,
		BindingTTL: 10 * time.Minute, BindingMax: 1 << 20, APIAddr: "127.0.0.1:8180", GossipAddr: "0.0.0.0:7946", SyncAddr: "0.0.0.0:7947",
		FanoutLimit: 32, WG: "off", WGInterface: "wg0", WGPort: 51820, WGTopology: "full-mesh",
		WGNetworks: []netip.Prefix{netip.MustParsePrefix("10.50.0.0/16"), netip.MustParsePrefix("fd50:ed9e::/48")}, WGMTU: 1420, SyncOver: "direct", DNSDomain: "internal",
		Relay: "auto", ClientPrefix: [2]int{32, 64}, HeartbeatTTL: 60, Drain: 30 * time.Second, ConnectTimeout: 2 * time.Second, ConnectAttempts: 3, HeaderTimeout: 3 * time.Second,
		HealthCheck: "tcp", IdleTimeout: time.Hour, LingerTimeout: time.Minute, LogLevel: "info", LogFormat: "auto",
		origins: map[string]origin{},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for _, s := range Settings() {
		if got.Explicit(s.Key) || got.Origin(s.Key) != "default" {
			t.Errorf("%s: nobody asked for it, origin %q", s.Key, got.Origin(s.Key))
		}
	}
}

func TestEveryFieldFromTheFile(t *testing.T) {
	got, _, err := load(t, `
listen_addr: "[::1]:0"
db_path: /var/lib/edgeproxy/routing.db
region: EU-West
db_reload_secs: 0.25
binding_ttl_secs: 0
binding_max: 7
position: -23.55, -46.63
node_id: sa-1.example
app: shop
geoip_path: /usr/share/GeoIP/GeoLite2-City.mmdb
cert_dir: /etc/edgeproxy/certs
proxy_protocol: on
trusted_proxies: [10.0.0.0/8, "::ffff:192.0.2.1", 2001:db8::/32]
api_addr: localhost:80
api_token: 007
gossip_addr: 10.0.0.1:1
sync_addr: 10.0.0.1:2
advertise_addr: "::ffff:192.0.2.9"
join: [sa.example.net, "[2001:db8::1]:7946"]
cluster_key: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
insecure: no
fanout_limit: 3
wg: TUN
wg_interface: edge0
wg_port: 1
wg_endpoint: 192.0.2.9:2
wg_topology: Hierarchical
wg_hubs: [sa-1, us-1]
wg_networks: fd00:1:2::/48
wg_mtu: 1280
sync_over: overlay
dns_addr: 127.0.0.1:5353
dns_domain: Mesh.Example.
dns_forward: [192.0.2.53, "[2001:db8::53]:5353"]
relay: Goroutine
max_connections: 1000
client_max_connections: 10
client_max_rate: 2.5
client_prefix: 24, 48
allow_clients: 10.0.0.0/8
deny_clients: [10.1.0.0/16, "::1"]
allow_backends: [127.0.0.0/8]
heartbeat_ttl_secs: 30
drain_secs: 1.5
upgrade_drain_secs: 60
connect_timeout_ms: 0.5
connect_attempts: 10
header_timeout_ms: 1500
health_check: http path=/health
panic_threshold: 50
hard_margin: 0.03
idle_timeout_secs: 31536000
linger_timeout_secs: 1
log_level: WARN
log_format: json
access_log: yes
countries:
  NO: EU
  br: sa
regions: {eu-west: "53.34,-6.26"}
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	got.origins = nil
	want := &Config{
		File: path, Listen: "[::1]:0", DBPath: "/var/lib/edgeproxy/routing.db", Region: "eu-west",
		DBReload: 250 * time.Millisecond, BindingTTL: 0, BindingMax: 7, Position: &[2]float64{-23.55, -46.63},
		NodeID: "sa-1.example", App: "shop", GeoIPPath: "/usr/share/GeoIP/GeoLite2-City.mmdb", CertDir: "/etc/edgeproxy/certs", ProxyProtocol: true,
		TrustedProxies: []netip.Prefix{
			netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/32"),
		},
		APIAddr: "localhost:80", APIToken: "007",
		GossipAddr: "10.0.0.1:1", SyncAddr: "10.0.0.1:2", AdvertiseAddr: netip.MustParseAddr("192.0.2.9"),
		Join: []string{"sa.example.net", "[2001:db8::1]:7946"}, ClusterKey: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", FanoutLimit: 3,
		WG: "tun", WGInterface: "edge0", WGPort: 1, WGEndpoint: "192.0.2.9:2", WGTopology: "hierarchical", WGHubs: []string{"sa-1", "us-1"},
		WGNetworks: []netip.Prefix{netip.MustParsePrefix("fd00:1:2::/48")}, WGMTU: 1280, SyncOver: "overlay", Relay: "goroutine",
		DNSAddr: "127.0.0.1:5353", DNSDomain: "mesh.example", DNSForward: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("[2001:db8::53]:5353")},
		MaxConnections: 1000, ClientConnections: 10, ClientRate: 2.5, ClientPrefix: [2]int{24, 48},
		AllowClients: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, DenyClients: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("::1/128")},
		AllowBackends: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, HeartbeatTTL: 30,
		Drain: 1500 * time.Millisecond, UpgradeDrain: time.Minute, ConnectTimeout: 500 * time.Microsecond,
		ConnectAttempts: 10, HeaderTimeout: 1500 * time.Millisecond, HealthCheck: "http path=/health", PanicThreshold: 50, HardMargin: 0.03, IdleTimeout: 365 * 24 * time.Hour, LingerTimeout: time.Second,
		LogLevel: "warn", LogFormat: "json", AccessLog: true,
		Countries: map[string]string{"NO": "eu", "BR": "sa"}, Regions: map[string][2]float64{"eu-west": {53.34, -6.26}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// The seed's README documents these five and nothing else.
func TestSeedEnvironmentWorksWithoutWarning(t *testing.T) {
	cfg, warnings, err := load(t, "", nil, "EDGEPROXY_LISTEN_ADDR=0.0.0.0:9000", "EDGEPROXY_DB_PATH=/data/routing.db",
		"EDGEPROXY_REGION=us", "EDGEPROXY_DB_RELOAD_SECS=2", "EDGEPROXY_BINDING_TTL_SECS=60")
	if err != nil || len(warnings) > 0 {
		t.Fatalf("err %v, warnings %q", err, warnings)
	}
	if cfg.Listen != "0.0.0.0:9000" || cfg.DBPath != "/data/routing.db" || cfg.Region != "us" ||
		cfg.DBReload != 2*time.Second || cfg.BindingTTL != time.Minute {
		t.Errorf("%+v", cfg)
	}
}

func TestEnvironmentNamesThatMeanNothing(t *testing.T) {
	for _, tt := range []struct {
		entry string
		want  []string // parts of the only warning; none: silence
	}{
		{"EDGEPROXY_TLS_ENABLED=true", []string{"EDGEPROXY_TLS_ENABLED"}},
		{"EDGEPROXY_REGOIN=us", []string{"EDGEPROXY_REGOIN", "did you mean EDGEPROXY_REGION?"}},
		{"EDGEPROXY_LISTEN=:1", []string{"did you mean EDGEPROXY_LISTEN_ADDR?"}},
		{"EDGEPROXY_region=us", []string{"did you mean EDGEPROXY_REGION?"}},
		{"EDGEPROXY_COUNTRIES=BR", []string{"only stand in the YAML file"}},
		{"EDGEPROXY_=x", []string{"unknown variable"}},
		{"EDGEPROXY_\x1b[31m\n=x", []string{"unknown variable"}},
		{"EDGEPROXY_TEST=1", nil},
		{"EDGEPROXY_TLS_ENABLED=", nil},
		{"EDGEPROXY_REGION=", nil},
		{"EDGEPROXY_LISTEN_ADDR=:1", nil},
		{"OTHER=1", nil},
		{"=C:=C:\\", nil}, // Windows has such entries
		{"EDGEPROXY_REGION", nil},
	} {
		cfg, warnings, err := load(t, "", nil, tt.entry)
		if err != nil {
			t.Errorf("%q: %v", tt.entry, err)
			continue
		}
		if cfg.Region != "sa" {
			t.Errorf("%q: region %q", tt.entry, cfg.Region)
		}
		if len(warnings) != min(1, len(tt.want)) {
			t.Errorf("%q: warnings %q", tt.entry, warnings)
			continue
		}
		for _, part := range tt.want {
			if !strings.Contains(warnings[0], part) || strings.ContainsAny(warnings[0], "\n\x1b") {
				t.Errorf("%q: warning %q, want %q in it", tt.entry, warnings[0], part)
			}
		}
	}
}

func TestOriginSaysWhatWasWritten(t *testing.T) {
	cfg, _, err := load(t, "region: sa\napp: a\nnode_id:\ndrain_secs: ~\n", []string{"--app", "", "--access-log"}, "EDGEPROXY_DRAIN_SECS=1")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"config": "EDGEPROXY_CONFIG", "region": "region in " + path, "app": "--app", "access_log": "--access-log",
		"drain_secs": "EDGEPROXY_DRAIN_SECS", "node_id": "default", "log_level": "default",
	} {
		if got := cfg.Origin(key); got != want || cfg.Explicit(key) != (want != "default") {
			t.Errorf("%s: origin %q, explicit %v, want %q", key, got, cfg.Explicit(key), want)
		}
	}
	if cfg.App != "" {
		t.Errorf("an empty flag is a value: app %q", cfg.App)
	}
}

func TestConfigFlagBeatsVariable(t *testing.T) {
	read := files{"a.yaml": "region: a", "b.yaml": "region: b"}.read
	for _, tt := range []struct{ flag, variable, file, region string }{
		{"a.yaml", "b.yaml", "a.yaml", "a"},
		{"", "b.yaml", "b.yaml", "b"},
		{" a.yaml ", "", "a.yaml", "a"},
		{"", "", "", "sa"},
	} {
		fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		AddFlags(fs)
		if tt.flag != "" {
			if err := fs.Set("config", tt.flag); err != nil {
				t.Fatal(err)
			}
		}
		cfg, _, err := Load(fs, []string{"EDGEPROXY_CONFIG=" + tt.variable}, read)
		if err != nil || cfg.Region != tt.region || cfg.File != tt.file {
			t.Errorf("%+v: %+v, %v", tt, cfg, err)
		}
	}
}

func TestTokenFromFile(t *testing.T) {
	read := files{"token": " s3cret\r\n", "empty": "\n", "two": "a\nb\n"}.read
	for _, tt := range []struct{ value, token, problem string }{
		{"@token", "s3cret", ""},
		{" @token ", "s3cret", ""},
		{"s3cret", "s3cret", ""},
		{"@missing", "", "open missing: file does not exist"},
		{"@empty", "", "without content"},
		{"@two", "", "line break"},
		{"@", "", "cannot be read"},
		{"s3 cret", "", "bearer token"},
		{strings.Repeat("s3cret", 1000), "", "bearer token"},
	} {
		cfg, _, err := Load(nil, []string{"EDGEPROXY_API_TOKEN=" + tt.value}, read)
		switch {
		case tt.problem == "" && (err != nil || string(cfg.APIToken) != tt.token):
			t.Errorf("%q: %v, %v", tt.value, cfg, err)
		case tt.problem != "" && (err == nil || !strings.Contains(err.Error(), tt.problem)):
			t.Errorf("%q: error %v, want %q in it", tt.value, err, tt.problem)
		case err != nil && strings.Contains(err.Error(), "cret"):
			t.Errorf("%q: the error shows the secret: %v", tt.value, err)
		}
	}
}

// Only flags that AddFlags made are ours: "backend add --region" is the region of a backend.
func TestForeignFlagOfTheSameName(t *testing.T) {
	fs := pflag.NewFlagSet("backend add", pflag.ContinueOnError)
	fs.String("region", "", "region of the backend")
	AddFlags(fs, "db_path", "api_addr")
	if err := fs.Parse([]string{"--region", "ap", "--db", "x.db"}); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := Load(fs, nil, nil)
	if err != nil || cfg.Region != "sa" || cfg.DBPath != "x.db" {
		t.Errorf("%+v, %v", cfg, err)
	}
	if fs.Lookup("config") == nil || fs.Lookup("drain-secs") != nil {
		t.Error("want --config and the flags named, no others")
	}
}

func TestNothingToReadFilesWith(t *testing.T) {
	_, _, err := Load(nil, []string{"EDGEPROXY_CONFIG=x"}, nil)
	var problems Problems
	if !errors.As(err, &problems) || problems[0].Source != "EDGEPROXY_CONFIG" {
		t.Errorf("%v", err)
	}
}
