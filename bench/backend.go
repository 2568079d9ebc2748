//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"runtime"

	"golang.org/x/sys/unix"
)

// backendJob tells the backend process where to listen, once.
type backendJob struct {
	Addrs   []netip.AddrPort
	Workers int
}

type backendReply struct{ Err string }

// peer is one descriptor of a backend loop.
type peer struct {
	listener bool
	stream   bool
	got      int // bytes of the current request
	first    byte
}

// backendLoop serves connections: it answers requests of messageSize bytes and streams to those who ask for it.
type backendLoop struct {
	*loop
	peers []peer // by descriptor
	in    [messageSize]byte
	out   []byte
}

// startBackend opens every listener for every worker and then starts the workers, which serve until the process ends.
func startBackend(j backendJob) error {
	var loops []*backendLoop
	for range max(j.Workers, 1) {
		l, err := newLoop()
		if err != nil {
			return err
		}
		b := &backendLoop{loop: l, out: make([]byte, 256<<10)}
		for _, addr := range j.Addrs {
			fd, err := listenOn(addr)
			if err != nil {
				return fmt.Errorf("listen on %s: %w", addr, err)
			}
			if err := b.add(fd, unix.EPOLLIN, int32(fd)); err != nil {
				return err
			}
			*b.at(fd) = peer{listener: true}
		}
		loops = append(loops, b)
	}
	for _, b := range loops {
		go b.run() // ends with the process, which is all it is for
	}
	return nil
}

func (b *backendLoop) at(fd int) *peer {
	for fd >= len(b.peers) {
		b.peers = append(b.peers, make([]peer, 1024)...)
	}
	return &b.peers[fd]
}

func (b *backendLoop) run() {
	runtime.LockOSThread()
	for {
		for _, ev := range b.wait(1000) {
			fd := int(ev.Fd)
			switch p := b.at(fd); {
			case p.listener:
				b.acceptAll(fd)
			case p.stream:
				b.stream(fd, ev.Events)
			default:
				b.answer(fd, p)
			}
		}
	}
}

func (b *backendLoop) acceptAll(listener int) {
	for {
		fd, errno := accept(listener)
		if errno != 0 { // nothing more, or out of descriptors: the listener stays ready
			return
		}
		*b.at(fd) = peer{}
		if b.add(fd, unix.EPOLLIN, int32(fd)) != nil {
			_ = unix.Close(fd)
		}
	}
}

// answer takes what has come of a request and replies once it is whole.
func (b *backendLoop) answer(fd int, p *peer) {
	n, errno := read(fd, b.in[:messageSize-p.got])
	if errno != 0 && again(errno) {
		return
	}
	if n <= 0 || errno != 0 {
		_ = unix.Close(fd)
		return
	}
	if p.got == 0 {
		p.first = b.in[0]
	}
	if p.got += n; p.got < messageSize {
		return
	}
	p.got = 0
	if p.first == wantStream {
		p.stream = true
		_ = b.change(fd, unix.EPOLLOUT|unix.EPOLLRDHUP, int32(fd))
		return
	}
	// A reply fits the empty send buffer of a connection that waits for it: no partial writes here.
	if _, errno := write(fd, b.out[:messageSize]); errno != 0 {
		_ = unix.Close(fd)
	}
}

// stream fills the connection's send buffer until the client has closed.
func (b *backendLoop) stream(fd int, events uint32) {
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		_ = unix.Close(fd)
		return
	}
	for range 4 { // then let the other connections have their turn
		if n, errno := write(fd, b.out); errno != 0 && !again(errno) {
			_ = unix.Close(fd)
			return
		} else if n < len(b.out) {
			return
		}
	}
}
