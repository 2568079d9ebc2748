package node

import (
	"context"
	"net"
	"os"
	"os/exec"

	"github.com/edgeproxy/edgeproxy/internal/descriptor"
	"github.com/edgeproxy/edgeproxy/internal/handover"
)

// Names of the sockets that one generation of a POP passes on to the next.
// systemd's may have the first four.
const (
	socketListen = "listen" // of the default service: all that share its address
	socketAPI    = "api"
	socketDNS    = "dns"      // of the DNS server, TCP
	socketDNSUDP = "dnsudp"   // likewise, UDP
	socketElder  = "elder"    // where a generation before this one, that drains, tells of its connections
	fileBindings = "bindings" // which client has which backend
	socketOf     = "service " // and behind it where a service listens: all that share that address
)

// will is what the old process writes for the new one.
type will struct {
	Addrs map[string]heldAddr `json:"addrs"` // by setting
	Kept  bool                `json:"kept"`  // the clients' sockets are systemd's, and outlive every generation

	Services []string `json:"services"` // addresses of the services' listeners that are passed on
}

type heldAddr struct {
	Asked string `json:"asked"`
	Held  string `json:"held"`
}

// addr is the address to have for a setting that asks for one: what the old
// process had for it, where that asked for the same, and so may have chosen a
// port, or got another from systemd.
func (w will) addr(key, asked string) string {
	if h, ok := w.Addrs[key]; ok && h.Held != "" && (h.Asked == asked || sameAddr(h.Held, asked)) {
		return h.Held
	}
	return asked
}

func (n *Node) writeWill() will {
	return will{Kept: n.will.Kept, Addrs: map[string]heldAddr{
		"listen_addr": {n.cfg.Listen, n.addrs.Listen}, "api_addr": {n.cfg.APIAddr, n.addrs.API},
		"dns_addr":    {n.cfg.DNSAddr, n.names.addr()},
		"gossip_addr": {n.cfg.GossipAddr, n.addrs.Gossip}, "sync_addr": {n.cfg.SyncAddr, n.addrs.Sync},
	}}
}

// bequest is what a generation passes on, to whichever process takes it in the end.
type bequest struct {
	sockets []handover.Socket
	will    will
	report  net.Conn // where the next generation hears of this one's connections
}

func (n *Node) bequeath() (b *bequest, err error) {
	b = &bequest{will: n.writeWill()}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	add := func(name string, files ...*os.File) {
		for _, f := range files {
			b.sockets = append(b.sockets, handover.Socket{Name: name, File: f})
		}
	}
	front, err := n.server.Files(n.front)
	add(socketListen, front...)
	if err != nil {
		return b, err
	}
	apiFront, err := descriptor.Copy(n.apiFront)
	if err != nil {
		return b, err
	}
	add(socketAPI, apiFront)
	streams, packets, err := n.names.files()
	add(socketDNS, streams...)
	add(socketDNSUDP, packets...)
	if err != nil {
		return b, err
	}
	services, err := n.listeners.hold()
	for addr, files := range services {
		add(socketOf+addr, files...)
		b.will.Services = append(b.will.Services, addr)
	}
	if err != nil {
		return b, err
	}
	elders, err := n.elders.files()
	add(socketElder, elders...)
	if err != nil {
		return b, err
	}
	if bindings, err := writeBindings(n.cfg.DBPath, n.affinity); err == nil {
		add(fileBindings, bindings)
	} else { // as on a full disk: clients are served without
		n.log.Warn().Err(err).Msg("upgrading: clients lose their affinity")
	}
	reader, writer, err := handover.Mailbox()
	if err != nil {
		return b, err
	}
	add(socketElder, reader)
	defer writer.Close()
	b.report, err = net.FileConn(writer)
	return b, err
}

func (b *bequest) closeSockets() {
	for _, s := range b.sockets {
		s.File.Close()
	}
	b.sockets = nil
}

func (b *bequest) close() {
	b.closeSockets()
	if b.report != nil {
		b.report.Close()
	}
}

// beget starts a process for the next generation and waits until it has read
// its settings.
func (b *bequest) beget(ctx context.Context, cmd *exec.Cmd) (h *handover.Heir, version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if h, err = handover.Start(cmd, b.sockets, b.will); err != nil {
		return nil, "", err
	}
	if version, err = h.Ready(ctx); err != nil {
		h.Kill()
		return nil, "", err
	}
	return h, version, nil
}
