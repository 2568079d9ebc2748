package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/proxy"
	"github.com/rs/zerolog"
)

// listen has the sockets of the clients and of the API: those that were passed
// on, where they are at the addresses that are asked for now, else new ones.
func (n *Node) listen(ctx context.Context, cfg *config.Config) error {
	estate := n.opts.Estate
	if n.front != nil {
		return nil // before the generation before let go
	}
	all, err := n.adopt(ctx, cfg, socketListen, "listen_addr", cfg.Listen)
	if err != nil {
		return err
	}
	n.front, n.others = all[0], all[1:]
	if all, err = n.adopt(ctx, cfg, socketAPI, "api_addr", cfg.APIAddr); err != nil {
		return err
	}
	n.apiFront = all[0]
	if err := n.listenNames(ctx, cfg); err != nil {
		return err
	}
	n.older = estate.Take(socketElder)
	n.passedOn = map[string][]*net.TCPListener{}
	for _, addr := range n.will.Services {
		if n.passedOn[addr], err = estate.Listeners(socketOf + addr); err != nil {
			return err
		}
	}
	for _, name := range estate.Left() {
		n.log.Warn().Str("socket", name).Msg("inherited socket closed: it is none of " + strings.Join([]string{socketListen, socketAPI, socketDNS, socketDNSUDP}, ", "))
	}
	return nil
}

// adopt takes the inherited listeners of a name.
func (n *Node) adopt(ctx context.Context, cfg *config.Config, name, key, addr string) ([]*net.TCPListener, error) {
	lns, err := n.opts.Estate.Listeners(name)
	if err != nil {
		return nil, err
	}
	if len(lns) > 0 {
		// From systemd the unit says which address it is.
		fromSystemd := !n.opts.Estate.Succeeds()
		if name == socketListen && fromSystemd {
			n.will.Kept = true
		}
		if fromSystemd || n.will.addr(key, addr) == lns[0].Addr().String() {
			return lns, nil
		}
		n.log.Info().Str("setting", key).Str("from", lns[0].Addr().String()).Str("to", addr).Msg("address changed with the upgrade")
		for _, ln := range lns {
			ln.Close()
		}
		n.without = append(n.without, name)
		if name == socketListen {
			n.will.Kept = false
		}
	}
	// Beside the process before this one a default that is taken is no other's.
	ln, err := listen(ctx, cfg, key, addr, cfg.Explicit(key) || n.opts.Estate.Succeeds(), n.log)
	return []*net.TCPListener{ln}, err
}

// sameAddr compares what two addresses bind: no address is every address, which the kernel shows as [::].
func sameAddr(a, b string) bool {
	plain := func(addr string) string {
		host, port, _ := net.SplitHostPort(addr)
		switch {
		case host == "0.0.0.0", host == "::", host == "":
			host = ""
		case strings.EqualFold(host, "localhost"):
			host = "127.0.0.1"
		}
		return net.JoinHostPort(host, port)
	}
	return plain(a) == plain(b)
}

// listen opens the address of a setting. A default port that is taken moves to
// a free one, so that a first try on a busy machine works; one that somebody
// asked for does not (there), because others rely on it.
func listen(ctx context.Context, cfg *config.Config, key, addr string, there bool, log zerolog.Logger) (*net.TCPListener, error) {
	ln, err := proxy.Listen(ctx, addr)
	if err == nil {
		return ln, nil
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s %s: %w", cfg.Origin(key), addr, err)
	}
	if there {
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
