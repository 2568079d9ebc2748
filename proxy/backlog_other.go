//go:build !linux

package proxy

import (
	"errors"
	"net"
)

// Backlog is not to be had here.
func Backlog(*net.TCPListener) (int, error) { return 0, errors.ErrUnsupported }
