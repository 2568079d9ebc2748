package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/proxy"
	"github.com/rs/zerolog"
)

// listen opens the address of a setting. A default port that is taken moves to
// a free one, so that a first try on a busy machine works; one that somebody
// asked for does not, because others rely on it.
func listen(ctx context.Context, cfg *config.Config, key, addr string, log zerolog.Logger) (*net.TCPListener, error) {
	ln, err := proxy.Listen(ctx, addr)
	if err == nil {
		return ln, nil
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s %s: %w", cfg.Origin(key), addr, err)
	}
	if cfg.Explicit(key) {
		return nil, fmt.Errorf("%s %s: the address is in use: stop what listens there (ss -ltnp shows it) or choose another port", cfg.Origin(key), addr)
	}
	host, _, _ := net.SplitHostPort(addr)
	ln, err = proxy.Listen(ctx, net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, fmt.Errorf("%s, a free port instead of %s: %w", key, addr, err)
	}
	log.Warn().Str("setting", key).Str("wanted", addr).Stringer("addr", ln.Addr()).Msg("default port is taken, listening on a free one")
	return ln, nil
}
