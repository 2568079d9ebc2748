package node

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/geo/mmdb"
	"github.com/edgeproxy/edgeproxy/proxy"
	"github.com/edgeproxy/edgeproxy/proxy/guard"
	"github.com/rs/zerolog"
)

func (n *Node) openGeo(cfg *config.Config) error {
	table, err := countryTable(cfg)
	if err != nil {
		return err
	}
	log := n.log.With().Str("component", "geo").Logger()
	n.geo, err = mmdb.New(mmdb.Config{Path: cfg.GeoIPPath, OnReload: func(info mmdb.Info, err error) { logGeo(log, info, err) }}, table)
	return err
}

func logGeo(log zerolog.Logger, info mmdb.Info, err error) {
	if err != nil {
		log.Error().Err(err).Str("in_use", info.Source).Time("built", info.Built).Msg("country database not replaced")
		return
	}
	log.Info().Str("source", info.Source).Str("type", info.Type).Time("built", info.Built).Msg("country database loaded")
}

func countryTable(cfg *config.Config) (*geo.Table, error) {
	overrides := make(map[string]geo.Region, len(cfg.Countries))
	for c, r := range cfg.Countries {
		overrides[c] = geo.Region(r)
	}
	t, err := geo.NewTable(overrides)
	if err != nil {
		return nil, fmt.Errorf("countries in %s: %w", cfg.File, err)
	}
	return t, nil
}

// settings are the proxy's part of the configuration.
func settings(cfg *config.Config, listeners int) proxy.Settings {
	s := proxy.Settings{
		ConnectTimeout: cfg.ConnectTimeout, Attempts: cfg.ConnectAttempts, HeaderTimeout: cfg.HeaderTimeout,
		IdleTimeout: cfg.IdleTimeout, LingerTimeout: cfg.LingerTimeout,
		Drain: cfg.Drain, AccessLog: cfg.AccessLog,
		MaxConnections: maxConnections(cfg.MaxConnections, listeners),
		Guard: guard.Rules{
			Allow: cfg.AllowClients, Deny: cfg.DenyClients,
			Connections: cfg.ClientConnections, Rate: cfg.ClientRate,
			IPv4Bits: cfg.ClientPrefix[0], IPv6Bits: cfg.ClientPrefix[1],
		},
	}
	if cfg.ProxyProtocol {
		s.Trusted = append([]netip.Prefix{}, cfg.TrustedProxies...)
	}
	return s
}

// configure has the proxy work as the configuration says now, beside so many
// listeners of services.
func (n *Node) configure() {
	n.server.Configure(settings(n.latest.Load(), int(n.serviceListeners.Load())))
}

// Reload takes over what may change while the POP runs, re-reads the country
// database, and says in the log which other settings need a restart. The
// caller sets the log level.
func (n *Node) Reload(ctx context.Context, cfg *config.Config) {
	select {
	case <-n.ready:
	default:
		return // it starts with what it has; nothing is lost by asking again
	}
	if n.retired.Load() {
		return
	}
	for _, key := range n.cfg.ChangedFrozen(cfg) {
		n.log.Warn().Str("setting", key).Str("from", cfg.Origin(key)).Msg("changed setting needs a restart")
	}
	table, err := countryTable(cfg)
	if err != nil {
		n.log.Error().Err(err).Msg("configuration not reloaded")
		return
	}
	check, err := defaultCheck(cfg)
	if err != nil {
		n.log.Error().Err(err).Msg("configuration not reloaded")
		return
	}
	n.vigil.setDefault(check)
	n.router.Tune(tuning(cfg))
	n.loops.allowOnly(cfg.AllowBackends)
	n.geo.SetTable(table)
	if err := n.geo.Reload(); err != nil {
		logGeo(n.log, n.geo.Info(), err)
	}
	if n.certs != nil {
		n.certs.Reload()
	}
	n.affinity.SetTTL(cfg.BindingTTL)
	n.latest.Store(cfg)
	n.configure()
	n.positions.Store(new(positions(cfg)))
	p := n.picture()
	p.setPositions(positions(cfg))
	if err := p.refresh(ctx); err != nil {
		p.fail(err)
	}
	n.log.Info().Msg("configuration reloaded")
}
