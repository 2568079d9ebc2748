package proxy

import (
	"net"

	"golang.org/x/sys/unix"
)

// noNewConnections makes the kernel drop the SYNs that arrive at a listener,
// as a packet lost on the way. Whoever is in the queue or in the middle of its
// handshake can then be accepted without another one taking its place, and the
// listener closed with nobody in it: a client that the kernel has told
// "established" and then resets would see a failure for a drain. A dropped
// client sends its SYN again a second later, to whoever listens then.
func noNewConnections(ln *net.TCPListener) error { return control(ln, dropSYNs) }

// takeConnections undoes noNewConnections, which another process may have done
// to a socket that outlived it.
func takeConnections(ln *net.TCPListener) {
	_ = control(ln, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) }) // mostly there is none
}

func dropSYNs(fd int) error {
	// Classic BPF on the TCP header (the filter of a TCP socket begins there):
	// byte 13 holds the flags, 0x02 is SYN.
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 0x02, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}
