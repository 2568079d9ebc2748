// Package handover passes a process's sockets on to the process that takes its
// place: a new binary beside the old one, or this one from systemd.
//
// The old process:
//
//	heir, err := handover.Start(command, sockets, will)
//	version, err := heir.Ready(ctx)  // it could be started, and has what it can have beside this one
//	…                                // let go of what only one may hold
//	err = heir.Give()
//	err = heir.Serving(ctx)          // else heir.Kill, and another one
//
// The new process, if there is an old one:
//
//	estate, err := handover.Inherit()
//	err = estate.Will(&will)         // which the old one wrote for it
//	…
//	err = estate.Ready(version)
//	err = estate.Await(ctx)          // the old one has let go
//	…
//	err = estate.Serving()
//
// Sockets have names; several may have the same. systemd's (LISTEN_FDS, named
// by FileDescriptorName=) come without an old process. Messages are lines of
// JSON on a socket pair. The package knows nothing of what is handed over.
package handover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// Variable names the descriptors that a process inherits, from 3 on. It is set
// by Start, for the new process alone. It is no setting, and so has not their prefix.
const Variable = "HANDOVER_TO_EDGEPROXY"

// control is the name of the socket to the old process.
const control = "control"

// Socket is a descriptor and what it is.
type Socket struct {
	Name string
	File *os.File
}

// message is what the two processes say; each says one thing at a time.
type message struct {
	Will    json.RawMessage `json:"will,omitempty"`
	Ready   string          `json:"ready,omitempty"` // the new one's version
	Yours   bool            `json:"yours,omitempty"`
	Serving bool            `json:"serving,omitempty"`
	Without []string        `json:"without,omitempty"` // names of sockets that it does not serve
}

// talk is one end of the pair.
type talk struct {
	conn net.Conn
	in   *bufio.Reader
}

func newTalk(f *os.File) (*talk, error) {
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("handover: %w", err)
	}
	return &talk{conn, bufio.NewReaderSize(conn, maxLine)}, nil
}

const maxLine = 64 << 10

func (t *talk) send(m message) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = t.conn.Write(append(line, '\n'))
	return err
}

// receive reads one message; ctx ends the wait.
func (t *talk) receive(ctx context.Context) (m message, err error) {
	stop := context.AfterFunc(ctx, func() { _ = t.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := t.in.ReadSlice('\n')
	switch {
	case ctx.Err() != nil:
		return m, ctx.Err()
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET): // which it is where the will was not read
		return m, errEnded
	case err != nil:
		return m, err
	}
	return m, json.Unmarshal(line, &m)
}

var errEnded = errors.New("the other process has ended: its log says why")

// Estate is what a process inherits.
type Estate struct {
	sockets []Socket
	talk    *talk // nil: from systemd
}

// Inherit takes what this process was started with, which later children must
// not believe to be theirs. nil: nothing.
func Inherit() (*Estate, error) {
	names, ours := os.LookupEnv(Variable)
	os.Unsetenv(Variable)
	if !ours {
		return fromSystemd(), nil
	}
	e := &Estate{}
	for i, name := range strings.Split(names, ",") {
		f := os.NewFile(uintptr(3+i), name)
		closeOnExec(f)
		if name != control {
			e.sockets = append(e.sockets, Socket{name, f})
			continue
		}
		var err error
		if e.talk, err = newTalk(f); err != nil {
			return nil, fmt.Errorf("%s is set, but not by an edgeproxy that hands over: %w", Variable, err)
		}
	}
	if e.talk == nil {
		return nil, fmt.Errorf("%s is set without a socket named %s: unset it", Variable, control)
	}
	return e, nil
}

// Succeeds says whether there is an old process to hear from.
func (e *Estate) Succeeds() bool { return e != nil && e.talk != nil }

// Ready tells the old process that this one can go on.
func (e *Estate) Ready(version string) error { return e.talk.send(message{Ready: version}) }

// Will decodes what the old process has written for this one.
func (e *Estate) Will(will any) error {
	m, err := e.talk.receive(context.Background()) // it is there already
	if err == nil {
		err = json.Unmarshal(m.Will, will)
	}
	return err
}

// Await waits until the old process has let go. Where it has ended instead, it
// has let go, too.
func (e *Estate) Await(ctx context.Context) error {
	m, err := e.talk.receive(ctx)
	switch {
	case errors.Is(err, errEnded):
		return nil
	case err == nil && !m.Yours:
		return fmt.Errorf("handover: the old process said %+v", m)
	}
	return err
}

// Serving tells the old process that it is over, and the names of the sockets
// that nobody needs any more.
func (e *Estate) Serving(without ...string) error {
	defer e.talk.conn.Close()
	return e.talk.send(message{Serving: true, Without: without})
}

// Listeners takes the TCP listeners of a name. The caller closes them.
func (e *Estate) Listeners(name string) (lns []*net.TCPListener, err error) {
	for _, f := range e.Take(name) {
		ln, lerr := net.FileListener(f)
		f.Close()
		if tcp, ok := ln.(*net.TCPListener); ok {
			lns = append(lns, tcp)
			continue
		}
		if lerr == nil {
			ln.Close()
			lerr = errors.New("it is no TCP listener")
		}
		err = errors.Join(err, fmt.Errorf("inherited socket %s: %w", name, lerr))
	}
	return lns, err
}

// Packets takes the UDP sockets of a name. The caller closes them.
func (e *Estate) Packets(name string) (conns []net.PacketConn, err error) {
	for _, f := range e.Take(name) {
		c, perr := net.FilePacketConn(f)
		f.Close()
		if udp, ok := c.(*net.UDPConn); ok {
			conns = append(conns, udp)
			continue
		}
		if perr == nil {
			c.Close()
			perr = errors.New("it is no UDP socket")
		}
		err = errors.Join(err, fmt.Errorf("inherited socket %s: %w", name, perr))
	}
	return conns, err
}

// Take takes the sockets of a name.
func (e *Estate) Take(name string) (files []*os.File) {
	if e == nil {
		return nil
	}
	var rest []Socket
	for _, s := range e.sockets {
		if s.Name == name {
			files = append(files, s.File)
		} else {
			rest = append(rest, s)
		}
	}
	e.sockets = rest
	return files
}

// Left closes what nobody has taken, and names it.
func (e *Estate) Left() (names []string) {
	if e == nil {
		return nil
	}
	for _, s := range e.sockets {
		names = append(names, s.Name)
		s.File.Close()
	}
	e.sockets = nil
	return names
}
