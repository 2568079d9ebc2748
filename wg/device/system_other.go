//go:build !linux

package device

import (
	"errors"
	"fmt"
	"net"

	"github.com/rs/zerolog"
)

func openKernel(Config, zerolog.Logger, func(error)) (tunnel, network, error) {
	return nil, nil, fmt.Errorf("WireGuard in the kernel %w", ErrUnsupported)
}

func openTUN(Config, zerolog.Logger, func(error)) (tunnel, network, error) {
	return nil, nil, fmt.Errorf("WireGuard on a TUN interface %w", ErrUnsupported)
}

const socketDir = ""

// socket is where wg(8) asks and orders: on Linux only.
type socket struct{}

func openSocket(string, string, func(net.Conn)) (*socket, error) {
	return nil, errors.New("on Linux only")
}

func (*socket) close() error { return nil }
