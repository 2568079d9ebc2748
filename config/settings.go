package config

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Setting declares one setting. What users see of it (flag, variable, YAML key, help, reference) follows from here.
type Setting struct {
	Key     string // in the YAML file; upper-cased behind EDGEPROXY_ in the environment
	Flag    string // without dashes; "" if only the file has it
	Default string // as a user would write it
	Empty   string // what then holds where Default is empty
	Help    string // one line, no full stop
	Unit    string // unit or form of the value: the placeholder in --help
	Allowed string // what is accepted, as the end of "want …"
	Live    bool   // a SIGHUP applies it; the others need a restart

	shape  shape
	secret bool // not shown in messages; @file reads it from a file
	field  field
}

// Env is the name of the environment variable, "" if only the file has the setting.
func (s Setting) Env() string {
	if s.shape == mapping {
		return ""
	}
	return envName(s.Key)
}

// FileKey is the key in the YAML file, "" if the file cannot have the setting.
func (s Setting) FileKey() string {
	if s.Key == configKey {
		return ""
	}
	return s.Key
}

// Settings returns the table, in the order of the reference.
func Settings() []Setting { return slices.Clone(settings) }

const (
	configKey = "config"
	envPrefix = "EDGEPROXY_"
	envTests  = envPrefix + "TEST" // belongs to the project's tests, not to the program

	day  = 24 * time.Hour
	year = 365 * day // bounds every duration: beyond it somebody mixed up units

	anAddress   = "host:port, the host an IP address, localhost or empty, the port 0 to 65535"
	regionRule  = "1 to 32 of a-z, 0-9, _ and -"
	latLonRule  = "latitude,longitude in degrees, -90 to 90 and -180 to 180"
	secondsFrom = "seconds, 0 to 31536000, fractions allowed"
	secondsOver = "seconds, above 0, up to 31536000, fractions allowed"
)

var (
	logLevels  = []string{"trace", "debug", "info", "warn", "error"}
	logFormats = []string{"auto", "console", "json"}
	relays     = []string{"auto", "reactor", "goroutine"}
	overlays   = []string{"off", "auto", "kernel", "tun", "netstack"}
	topologies = []string{"full-mesh", "hub-spoke", "hierarchical"}
	syncOvers  = []string{"direct", "overlay"}
)

// settings is the table. It is in the order of the reference, and never changes.
var settings = withFlags([]Setting{
	{Key: configKey, Empty: "no file", Unit: "path", Help: "YAML file with settings", Allowed: "a path",
		field: as(func(c *Config) *string { return &c.File }, plain, nil)},
	{Key: "listen_addr", Flag: "listen", Default: "0.0.0.0:8080", Unit: "host:port", Allowed: anAddress,
		Help:  "TCP listen address of the default service",
		field: as(func(c *Config) *string { return &c.Listen }, plain, hostPort)},
	{Key: "db_path", Flag: "db", Default: "routing.db", Unit: "path", Allowed: "a path",
		Help:  "the local routing database",
		field: as(func(c *Config) *string { return &c.DBPath }, plain, notEmpty)},
	{Key: "region", Default: "sa", Unit: "code", Allowed: regionRule,
		Help:  "region of this POP",
		field: as(func(c *Config) *string { return &c.Region }, lower, regionCode)},
	{Key: "db_reload_secs", Default: "5", Unit: "seconds", Allowed: secondsOver,
		Help:  "full re-read of the database as a safety net; changes are noticed without it",
		field: as(func(c *Config) *time.Duration { return &c.DBReload }, number(time.Second), between(1, year))},
	{Key: "binding_ttl_secs", Default: "600", Unit: "seconds", Allowed: secondsFrom, Live: true,
		Help:  "client affinity, since the client's last connection; 0 turns it off",
		field: as(func(c *Config) *time.Duration { return &c.BindingTTL }, number(time.Second), between(0, year))},
	{Key: "binding_max", Default: "1048576", Unit: "count", Allowed: "a whole number, 1 to 1073741824",
		Help:  "clients remembered for affinity",
		field: as(func(c *Config) *int { return &c.BindingMax }, whole, between(1, 1<<30))},
	{Key: "position", Empty: "the region's own", Unit: "lat,lon", Allowed: latLonRule,
		Help:  "position of this POP",
		field: as(func(c *Config) **[2]float64 { return &c.Position }, position, validPosition)},
	{Key: "node_id", Flag: "node", Empty: "made once and kept beside the database", Unit: "name",
		Allowed: "1 to 63 of A-Z, a-z, 0-9, dot, _ and -",
		Help:    "name of this POP in the mesh",
		field:   as(func(c *Config) *string { return &c.NodeID }, plain, nodeName)},
	{Key: "app", Empty: "every backend", Unit: "name", Allowed: "a name",
		Help:  "app that the default service serves",
		field: as(func(c *Config) *string { return &c.App }, plain, nil)},
	{Key: "geoip_path", Flag: "geoip", Empty: "the embedded country database", Unit: "path", Allowed: "a path",
		Help:  "MaxMind-format file: GeoLite2 or GeoIP2 Country or City, or DB-IP's",
		field: as(func(c *Config) *string { return &c.GeoIPPath }, plain, nil)},
	{Key: "cert_dir", Empty: "none", Unit: "path", Allowed: "the path of a directory",
		Help:  "directory of certificates and their keys, for services that terminate TLS; followed as its files are replaced",
		field: as(func(c *Config) *string { return &c.CertDir }, plain, nil)},
	{Key: "proxy_protocol", Default: "off", Unit: "on|off", Allowed: "on or off",
		Help:  "expect a PROXY v1 or v2 header from trusted proxies",
		field: as(func(c *Config) *bool { return &c.ProxyProtocol }, onOff, nil)},
	{Key: "trusted_proxies", Empty: "none", Unit: "list", Live: true, shape: list,
		Allowed: "prefixes or IP addresses, separated by commas; in YAML also a list",
		Help:    "whose PROXY header counts",
		field:   as(func(c *Config) *[]netip.Prefix { return &c.TrustedProxies }, prefixes, validPrefixes)},
	{Key: "api_addr", Flag: "api", Default: "127.0.0.1:8180", Unit: "host:port", Allowed: anAddress,
		Help:  "admin API and metrics; beyond loopback it needs a token",
		field: as(func(c *Config) *string { return &c.APIAddr }, plain, hostPort)},
	{Key: "api_token", Empty: "none", Unit: "secret", secret: true,
		Allowed: "1 to 4096 visible ASCII characters, or @ and the path of a file that holds them",
		Help:    "bearer token of the admin API, or @file; prefer the variable, other users can see flags",
		field:   as(func(c *Config) *Secret { return &c.APIToken }, secret, visible)},
	{Key: "gossip_addr", Default: "0.0.0.0:7946", Unit: "host:port", Allowed: anAddress,
		Help:  "membership address, TCP and UDP; without a cluster key on loopback only",
		field: as(func(c *Config) *string { return &c.GossipAddr }, plain, hostPort)},
	{Key: "sync_addr", Default: "0.0.0.0:7947", Unit: "host:port", Allowed: anAddress,
		Help:  "TCP address of the record streams; without a cluster key on loopback only",
		field: as(func(c *Config) *string { return &c.SyncAddr }, plain, hostPort)},
	{Key: "advertise_addr", Empty: "guessed", Unit: "ip", Allowed: "an IP address that the other POPs reach",
		Help:  "IP address that the other POPs dial, with the ports of the two above",
		field: as(func(c *Config) *netip.Addr { return &c.AdvertiseAddr }, optionalAddr, reachable)},
	{Key: "join", Empty: "none", Unit: "list", shape: list,
		Allowed: "addresses or names of POPs, each with or without its gossip port, separated by commas; in YAML also a list",
		Help:    "POPs to find the mesh by; asked until one answers",
		field:   as(func(c *Config) *[]string { return &c.Join }, seeds, validSeeds)},
	{Key: "cluster_key", Empty: "none", Unit: "secret", secret: true,
		Allowed: "base64 of 32 bytes, or @ and the path of a file that holds them",
		Help:    "secret that the POPs of a mesh share, from keygen, or @file; prefer the variable, other users can see flags",
		field:   as(func(c *Config) *Secret { return &c.ClusterKey }, secret, clusterKey)},
	{Key: "insecure", Default: "false", Unit: "bool", Allowed: "true or false",
		Help:  "without a cluster key, let anybody who reaches the gossip ports change routing",
		field: as(func(c *Config) *bool { return &c.Insecure }, onOff, nil)},
	{Key: "fanout_limit", Default: "32", Unit: "count", Allowed: "a whole number, 2 to 4096",
		Help:  "up to how many POPs each holds a record stream with every other; above, each has a few neighbours",
		field: as(func(c *Config) *int { return &c.FanoutLimit }, whole, between(2, 4096))},
	{Key: "wg", Default: "off", Unit: strings.Join(overlays, "|"), Allowed: oneOfRule(overlays),
		Help:  "WireGuard overlay: the kernel's, wireguard-go on a TUN device, or on a network stack of its own without privileges; auto is the first that works",
		field: as(func(c *Config) *string { return &c.WG }, lower, oneOf(overlays))},
	{Key: "wg_interface", Default: "wg0", Unit: "name", Allowed: "1 to 15 of a-z, A-Z, 0-9, dot, _ and -",
		Help:  "network interface of the overlay; one of that name that is not ours is not touched",
		field: as(func(c *Config) *string { return &c.WGInterface }, plain, interfaceName)},
	{Key: "wg_port", Default: "51820", Unit: "port", Allowed: "a whole number, 1 to 65535",
		Help:  "UDP port of the overlay",
		field: as(func(c *Config) *int { return &c.WGPort }, whole, between(1, 65535))},
	{Key: "wg_endpoint", Empty: "the advertised address, and that port", Unit: "ip:port", Allowed: "an IP address and a port that the other POPs reach by UDP, or none where they reach none",
		Help:  "where the other POPs send the overlay's packets; none: this POP cannot be reached, it dials",
		field: as(func(c *Config) *string { return &c.WGEndpoint }, lower, endpoint)},
	{Key: "wg_topology", Default: "full-mesh", Unit: strings.Join(topologies, "|"), Allowed: oneOfRule(topologies),
		Help:  "which POPs have tunnels with each other: all, each with two hubs, or each with the two hubs of its region; the same on every POP",
		field: as(func(c *Config) *string { return &c.WGTopology }, lower, oneOf(topologies))},
	{Key: "wg_hubs", Empty: "elected", Unit: "list", shape: list, Allowed: "names of POPs, separated by commas; in YAML also a list",
		Help:  "hubs of the overlay; the same on every POP",
		field: as(func(c *Config) *[]string { return &c.WGHubs }, names, validNames)},
	{Key: "wg_networks", Default: "10.50.0.0/16,fd50:ed9e::/48", Unit: "list", shape: list,
		Allowed: "an IPv6 /48 and, beside it, an IPv4 /16 or none, separated by commas; in YAML also a list",
		Help:    "networks that the overlay's addresses come from; the same on every POP",
		field:   as(func(c *Config) *[]netip.Prefix { return &c.WGNetworks }, prefixes, overlayNetworks)},
	{Key: "wg_mtu", Default: "1420", Unit: "bytes", Allowed: "a whole number, 576 to 65455; IPv6 needs 1280",
		Help:  "largest packet in the overlay; 80 less than the path between the POPs carries",
		field: as(func(c *Config) *int { return &c.WGMTU }, whole, between(576, 65455))},
	{Key: "sync_over", Default: "direct", Unit: strings.Join(syncOvers, "|"), Allowed: oneOfRule(syncOvers),
		Help:  "whether record streams go to the other POPs' addresses, or through the overlay",
		field: as(func(c *Config) *string { return &c.SyncOver }, lower, oneOf(syncOvers))},
	{Key: "dns_addr", Empty: "off", Unit: "host:port", Allowed: anAddress,
		Help:  "UDP and TCP address of the DNS server; port 53 needs root or CAP_NET_BIND_SERVICE",
		field: as(func(c *Config) *string { return &c.DNSAddr }, plain, optionalHostPort)},
	{Key: "dns_domain", Default: "internal", Unit: "name", Allowed: "a domain name of at most 100 characters",
		Help:  "domain whose names the DNS server answers; the same on every POP",
		field: as(func(c *Config) *string { return &c.DNSDomain }, domainName, validDomain)},
	{Key: "dns_forward", Empty: "refused", Unit: "list", shape: list,
		Allowed: "IP addresses of DNS servers, each with or without a port, separated by commas; in YAML also a list",
		Help:    "servers asked for other names, one after the other, for clients of private, loopback, link-local and overlay addresses",
		field:   as(func(c *Config) *[]netip.AddrPort { return &c.DNSForward }, resolvers, validResolvers)},
	{Key: "relay", Default: "auto", Unit: strings.Join(relays, "|"), Allowed: oneOfRule(relays),
		Help:  "how bytes are relayed: by epoll (Linux), or goroutines; auto is the former where there is one",
		field: as(func(c *Config) *string { return &c.Relay }, lower, oneOf(relays))},
	{Key: "max_connections", Default: "0", Unit: "count", Allowed: "a whole number, 0 to 1073741824", Live: true,
		Help:  "client connections open at the same time; more wait to be accepted; 0: what ulimit -n leaves room for, never more",
		field: as(func(c *Config) *int { return &c.MaxConnections }, whole, between(0, 1<<30))},
	{Key: "client_max_connections", Default: "0", Unit: "count", Allowed: "a whole number, 0 to 1073741824", Live: true,
		Help:  "connections open at the same time of one client, more are reset; 0: no bound",
		field: as(func(c *Config) *int { return &c.ClientConnections }, whole, between(0, 1<<30))},
	{Key: "client_max_rate", Default: "0", Unit: "count", Allowed: "a number, 0 to 1000000, fractions allowed", Live: true,
		Help:  "new connections a second of one client, and as many at once (at least one), more are reset; 0: no bound",
		field: as(func(c *Config) *float64 { return &c.ClientRate }, fraction, between(0.0, 1e6))},
	{Key: "client_prefix", Default: "32,64", Unit: "bits,bits", Allowed: clientPrefixRule, Live: true,
		Help:  "lengths of the IPv4 and the IPv6 prefix that count as one client",
		field: as(func(c *Config) *[2]int { return &c.ClientPrefix }, clientPrefix, validClientPrefix)},
	{Key: "allow_clients", Empty: "everybody", Unit: "list", Live: true, shape: list,
		Allowed: "prefixes or IP addresses, separated by commas; in YAML also a list",
		Help:    "who may connect; the longest prefix of this list and the next decides",
		field:   as(func(c *Config) *[]netip.Prefix { return &c.AllowClients }, prefixes, validPrefixes)},
	{Key: "deny_clients", Empty: "nobody", Unit: "list", Live: true, shape: list,
		Allowed: "prefixes or IP addresses, separated by commas; in YAML also a list",
		Help:    "who may not: the connection is reset",
		field:   as(func(c *Config) *[]netip.Prefix { return &c.DenyClients }, prefixes, validPrefixes)},
	{Key: "allow_backends", Empty: "none", Unit: "list", Live: true, shape: list,
		Allowed: "prefixes or IP addresses, separated by commas; in YAML also a list",
		Help:    "addresses at which backends may be although they could be a trap: loopback, link-local, metadata services (refused where they register themselves), and the POPs' own listeners",
		field:   as(func(c *Config) *[]netip.Prefix { return &c.AllowBackends }, prefixes, validPrefixes)},
	{Key: "heartbeat_ttl_secs", Default: "60", Unit: "seconds", Allowed: "a whole number, 1 to 86400", Live: true,
		Help:  "how long a backend that registered itself stays in routing without a heartbeat; after ten times that it is removed",
		field: as(func(c *Config) *int { return &c.HeartbeatTTL }, whole, between(1, 86400))},
	{Key: "drain_secs", Default: "30", Unit: "seconds", Allowed: secondsFrom, Live: true,
		Help:  "how long open connections may finish after SIGTERM",
		field: as(func(c *Config) *time.Duration { return &c.Drain }, number(time.Second), between(0, year))},
	{Key: "upgrade_drain_secs", Default: "0", Unit: "seconds", Allowed: secondsFrom, Live: true,
		Help:  "how long the connections of the old process may go on after an upgrade; 0: until they end",
		field: as(func(c *Config) *time.Duration { return &c.UpgradeDrain }, number(time.Second), between(0, year))},
	{Key: "connect_timeout_ms", Default: "2000", Unit: "milliseconds", Live: true,
		Allowed: "milliseconds, above 0, up to 600000, fractions allowed",
		Help:    "how long one connect to a backend may take",
		field:   as(func(c *Config) *time.Duration { return &c.ConnectTimeout }, number(time.Millisecond), between(1, 10*time.Minute))},
	{Key: "connect_attempts", Default: "3", Unit: "count", Allowed: "a whole number, 1 to 10", Live: true,
		Help:  "backends tried for one client",
		field: as(func(c *Config) *int { return &c.ConnectAttempts }, whole, between(1, 10))},
	{Key: "header_timeout_ms", Default: "3000", Unit: "milliseconds", Live: true,
		Allowed: "milliseconds, above 0, up to 600000, fractions allowed",
		Help:    "how long a client may take for a PROXY header and a TLS ClientHello, where they are due, and for a handshake",
		field:   as(func(c *Config) *time.Duration { return &c.HeaderTimeout }, number(time.Millisecond), between(1, 10*time.Minute))},
	{Key: "health_check", Default: "tcp", Unit: "check", Live: true,
		Allowed: "off, tcp or http, and behind it any of port=8081 interval=5s timeout=2s rise=2 fall=3, with http also path=/health status=200-399 host=name",
		Help:    "check of the backends of which neither their row nor their service's says another",
		field:   as(func(c *Config) *string { return &c.HealthCheck }, plain, healthCheck)},
	{Key: "panic_threshold", Default: "0", Unit: "percent", Allowed: "a whole number, 0 to 100", Live: true,
		Help:  "percent of an app's backends that must be up, or checks are not believed; 0: when none is",
		field: as(func(c *Config) *int { return &c.PanicThreshold }, whole, between(0, 100))},
	{Key: "hard_margin", Default: "0", Unit: "share", Allowed: "a share, 0 to 0.5", Live: true,
		Help:  "lowers hard limits where other POPs have connections too, whose counts are a little old",
		field: as(func(c *Config) *float64 { return &c.HardMargin }, fraction, between(0.0, 0.5))},
	{Key: "strict_limits", Default: "off", Unit: "on|off", Allowed: "on or off",
		Help:  "let a connection wait for a right rather than exceed a backend's hard_limit in the whole mesh; the same on every POP",
		field: as(func(c *Config) *bool { return &c.StrictLimits }, onOff, nil)},
	{Key: "idle_timeout_secs", Default: "3600", Unit: "seconds", Allowed: secondsOver, Live: true,
		Help:  "how long a connection may stay silent",
		field: as(func(c *Config) *time.Duration { return &c.IdleTimeout }, number(time.Second), between(1, year))},
	{Key: "linger_timeout_secs", Default: "60", Unit: "seconds", Allowed: secondsOver, Live: true,
		Help:  "how long a half-closed connection may stay silent",
		field: as(func(c *Config) *time.Duration { return &c.LingerTimeout }, number(time.Second), between(1, year))},
	{Key: "log_level", Default: "info", Unit: "level", Allowed: oneOfRule(logLevels), Live: true,
		Help:  "least severe level that is logged",
		field: as(func(c *Config) *string { return &c.LogLevel }, lower, oneOf(logLevels))},
	{Key: "log_format", Default: "auto", Unit: strings.Join(logFormats, "|"), Allowed: oneOfRule(logFormats),
		Help:  "form of the log; auto is console on a terminal, else json",
		field: as(func(c *Config) *string { return &c.LogFormat }, lower, oneOf(logFormats))},
	{Key: "access_log", Default: "false", Unit: "bool", Allowed: "true or false", Live: true,
		Help:  "log every connection",
		field: as(func(c *Config) *bool { return &c.AccessLog }, onOff, nil)},
	{Key: "countries", Empty: "by continent", Unit: "map", Live: true, shape: mapping,
		Allowed: "two-letter country codes, each with a region of " + regionRule,
		Help:    "region of the clients of a country, where it differs from the built-in table",
		field:   as(func(c *Config) *map[string]string { return &c.Countries }, countryTable.parse, countryTable.valid)},
	{Key: "regions", Empty: "sa, us, eu and ap are known", Unit: "map", Live: true, shape: mapping,
		Allowed: "region codes, each with " + latLonRule,
		Help:    "position of a region none of whose POPs says its own",
		field:   as(func(c *Config) *map[string][2]float64 { return &c.Regions }, regionTable.parse, regionTable.valid)},
})

// withFlags names the flag of each setting whose row does not: its key with dashes.
func withFlags(table []Setting) []Setting {
	for i := range table {
		if s := &table[i]; s.Flag == "" && s.shape != mapping {
			s.Flag = strings.ReplaceAll(s.Key, "_", "-")
		}
	}
	return table
}

func envName(key string) string { return envPrefix + strings.ToUpper(key) }
