// Package config turns flags, environment variables and a YAML file into one validated Config.
//
//	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
//	config.AddFlags(fs)
//	if err := fs.Parse(os.Args[1:]); err != nil {
//		return config.FlagError(fs, err) // adds the nearest flag that exists
//	}
//	cfg, warnings, err := config.Load(fs, os.Environ(), config.ReadFile)
//	// err is a Problems: one line for each thing wrong, all of them at once
//	if !cfg.Explicit("listen_addr") { /* the default port may move */ }
//	// on SIGHUP: load again, take the live settings, name the others
//	frozen := cfg.ChangedFrozen(next)
//
// Invariants: a flag beats a variable, a variable beats the file, the file beats the default. The table in settings.go is
// the only place where a setting is declared; flags, variables, YAML keys, help, reference and the list of live settings
// follow from it. What Load returns passes Validate. Load touches nothing outside but readFile, and a secret never
// appears in a message.
//
// It does not open what it names (database, country file, sockets), does not watch the file, and imports nothing of ours
// but package mesh, for what is written in rows, too.
package config

import (
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Config holds every setting, parsed. Load(nil, nil, nil) gives the defaults.
type Config struct {
	File string // YAML file that was read, "" if none

	Listen     string        // host:port; the host may be empty, the port 0 (any free one)
	DBPath     string        // routing database
	Region     string        // lower-case code
	DBReload   time.Duration // between two full re-reads, > 0
	BindingTTL time.Duration // 0: no affinity
	BindingMax int           // bindings kept, >= 1
	Position   *[2]float64   // latitude, longitude in degrees; nil: the region's own
	NodeID     string        // "": made once and kept beside the database
	App        string        // "": every backend
	GeoIPPath  string        // "": the embedded country database
	CertDir    string        // of certificates for services that terminate TLS; "": none

	ProxyProtocol  bool           // never true without TrustedProxies
	TrustedProxies []netip.Prefix // masked; IPv4-mapped ones as IPv4
	APIAddr        string         // host:port, as Listen; not loopback only with APIToken
	APIToken       Secret         // "": none

	GossipAddr    string     // host:port, as Listen; see Loopback
	SyncAddr      string     // host:port, as Listen; see Loopback
	AdvertiseAddr netip.Addr // what other POPs dial; zero: guessed
	Join          []string   // seeds, host or host:port
	ClusterKey    Secret     // base64 of 32 bytes; "": none
	Insecure      bool       // gossip beyond loopback without a key
	FanoutLimit   int        // POPs of a full mesh of record streams, at most, 2 to 4096

	WG          string         // off, auto, kernel, tun or netstack
	WGInterface string         // of the overlay
	WGPort      int            // UDP, 1 to 65535
	WGEndpoint  string         // ip:port; "": the advertised address; none: it cannot be reached
	WGTopology  string         // full-mesh, hub-spoke or hierarchical
	WGHubs      []string       // names of POPs; none: elected
	WGNetworks  []netip.Prefix // an IPv6 /48 and at most one IPv4 /16; package wg knows them
	WGMTU       int            // bytes
	SyncOver    string         // direct or overlay

	DNSAddr    string           // host:port, UDP and TCP; "": no DNS server
	DNSDomain  string           // lower case, without a dot at the end
	DNSForward []netip.AddrPort // asked for other names; none: those are refused

	Relay                     string // auto, reactor or goroutine; package proxy knows them
	MaxConnections            int    // of clients, open at the same time; 0: what the descriptors allow
	AllowClients, DenyClients []netip.Prefix
	AllowBackends             []netip.Prefix // where backends may be although they could be a trap
	HeartbeatTTL              int            // seconds, of backends that register themselves
	ClientConnections         int            // open at the same time for one client prefix; 0: no bound
	ClientRate                float64        // new ones a second for one client prefix; 0: no bound
	ClientPrefix              [2]int         // bits of an IPv4 and of an IPv6 prefix that are one client
	StrictLimits              bool           // hard limits hold for the whole mesh, exactly

	Drain           time.Duration // 0: cut at once
	UpgradeDrain    time.Duration // of the old process; 0: until the last connection has ended
	ConnectTimeout  time.Duration // of one attempt
	ConnectAttempts int           // backends tried for one client, 1 to 10
	HeaderTimeout   time.Duration // for a PROXY header, a ClientHello and a handshake
	IdleTimeout     time.Duration
	LingerTimeout   time.Duration // of a half-closed connection

	HealthCheck    string  // of backends of which nobody says anything: off, tcp … or http …; package mesh reads it
	PanicThreshold int     // percent of an app's backends that must be up, or checks are not believed
	HardMargin     float64 // share by which hard limits are lowered where other POPs have connections too, 0 to 0.5

	LogLevel  string // trace, debug, info, warn or error
	LogFormat string // auto, console or json
	AccessLog bool

	Countries map[string]string     // ISO 3166-1 alpha-2, upper case, to region code
	Regions   map[string][2]float64 // region code to latitude, longitude in degrees

	// origins has an entry for each setting that was asked for.
	origins map[string]origin
}

// Secret is a string that printing and logging do not show. Convert it with string(s) where it is used.
type Secret string

// Format implements fmt.Formatter, for every verb.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.mask()) }

// MarshalText keeps the secret out of JSON logs.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.mask()), nil }

func (s Secret) mask() string {
	if s == "" {
		return ""
	}
	return "(hidden)"
}

// Explicit reports whether the setting with this key was asked for by flag, variable or file, even if with its default.
func (c *Config) Explicit(key string) bool {
	_, ok := c.origins[key]
	return ok
}

// Origin says where the value of a setting comes from, in words for people: "--listen", "EDGEPROXY_LISTEN_ADDR",
// "listen_addr in /etc/edgeproxy.yaml" or "default".
func (c *Config) Origin(key string) string {
	if o, ok := c.origins[key]; ok {
		return o.String()
	}
	return "default"
}

// ChangedFrozen returns the keys of the settings that differ in next but need a restart, in the order of the reference.
func (c *Config) ChangedFrozen(next *Config) []string {
	var keys []string
	for _, s := range settings {
		if !s.Live && !reflect.DeepEqual(s.field.value(c), s.field.value(next)) {
			keys = append(keys, s.Key)
		}
	}
	return keys
}

// Validate checks every field and what must hold between fields. Its error is a Problems.
func (c *Config) Validate() error {
	l := loader{cfg: c, bad: map[string]bool{}}
	for _, s := range settings {
		if err := s.field.valid(c); err != nil {
			l.fail(s, raw{text: fmt.Sprint(s.field.value(c)), from: c.origins[s.Key]}, err)
		}
	}
	l.crossCheck()
	return l.problems.err()
}

// crossCheck reports what single settings cannot: combinations that would be unsafe. It stays silent about a setting
// that is wrong in itself, because a problem that another one causes only hides the cause.
func (l *loader) crossCheck() {
	c := l.cfg
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 && !l.bad["trusted_proxies"] && !l.bad["proxy_protocol"] {
		l.problems = append(l.problems, Problem{
			Key: "proxy_protocol", Source: c.source("proxy_protocol"), Value: quote("on"),
			Message: "needs trusted_proxies: without them any client could claim any address",
			Hint:    "set " + envName("trusted_proxies") + " to the addresses of the load balancers in front, e.g. 192.0.2.0/24",
		})
	}
	if !isLoopback(c.APIAddr) && c.APIToken == "" && !l.bad["api_addr"] && !l.bad["api_token"] {
		l.problems = append(l.problems, Problem{
			Key: "api_addr", Source: c.source("api_addr"), Value: quote(c.APIAddr),
			Message: "is not loopback and needs api_token: whoever reaches it can change routing",
			Hint:    "set " + envName("api_token") + " to a secret or @file, or keep the API on this machine, e.g. 127.0.0.1:8180",
		})
	}
	for _, key := range []string{"gossip_addr", "sync_addr"} {
		addr := map[string]string{"gossip_addr": c.GossipAddr, "sync_addr": c.SyncAddr}[key]
		if c.Loopback() && c.Explicit(key) && !isLoopback(addr) && !l.bad[key] && !l.bad["cluster_key"] && !l.bad["insecure"] {
			l.problems = append(l.problems, Problem{
				Key: key, Source: c.source(key), Value: quote(addr),
				Message: "is not loopback and needs cluster_key: whoever reaches it could change routing",
				Hint:    "set " + envName("cluster_key") + " to the output of \"edgeproxy keygen\" or @file, the same on every POP",
			})
		}
	}
	if c.SyncOver == "overlay" && c.WG == "off" && !l.bad["sync_over"] && !l.bad["wg"] {
		l.problems = append(l.problems, Problem{
			Key: "sync_over", Source: c.source("sync_over"), Value: quote("overlay"),
			Message: "needs the overlay, which is off",
			Hint:    "set " + envName("wg") + " to auto, or leave " + envName("sync_over") + " out",
		})
	}
	if slices.ContainsFunc(c.DNSForward, func(a netip.AddrPort) bool { return a.String() == c.DNSAddr }) && !l.bad["dns_forward"] && !l.bad["dns_addr"] {
		l.problems = append(l.problems, Problem{
			Key: "dns_forward", Source: c.source("dns_forward"), Value: quote(c.DNSAddr),
			Message: "is this POP's own DNS server",
			Hint:    "name the servers that this machine asked before, as /etc/resolv.conf had them",
		})
	}
	if c.ClusterKey != "" && c.Insecure && !l.bad["cluster_key"] && !l.bad["insecure"] {
		l.problems = append(l.problems, Problem{
			Key: "insecure", Source: c.source("insecure"), Value: quote("true"),
			Message: "contradicts cluster_key",
			Hint:    "leave out one of the two",
		})
	}
}

// Loopback says that gossip must stay on this machine: there is no key to tell
// other POPs from strangers.
func (c *Config) Loopback() bool { return c.ClusterKey == "" && !c.Insecure }

// source is Origin with the line, for problems.
func (c *Config) source(key string) string {
	if o, ok := c.origins[key]; ok {
		return o.at()
	}
	return key
}

// isLoopback takes an address that passed hostPort. An empty host is every address of the machine.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
