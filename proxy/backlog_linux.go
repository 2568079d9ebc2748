package proxy

import (
	"net"

	"golang.org/x/sys/unix"
)

// Backlog is how many connections wait to be accepted. The kernel reports it
// for a listener as tcpi_unacked (tcp_get_info in net/ipv4/tcp.c).
func Backlog(ln *net.TCPListener) (n int, err error) {
	raw, err := ln.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	if ctlErr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); ctlErr != nil {
		return 0, ctlErr
	}
	if err != nil {
		return 0, err
	}
	return int(info.Unacked), nil
}
