package device

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/wg"
)

// The text in which wireguard-go is told and asked, see "Cross-platform
// Userspace Implementation" at https://www.wireguard.com/xplatform/.

// encodeKey is the order to take a private key.
func encodeKey(key [32]byte) string {
	return "private_key=" + hex.EncodeToString(key[:]) + "\n"
}

// encodeChanges is the order to make changes. It may be given twice.
func encodeChanges(changes []wg.Change) string {
	var b strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&b, "public_key=%x\n", c.Key[:])
		if c.Remove || !wholePeer(c) {
			b.WriteString("update_only=true\n") // makes no peer of what is but a part of one
		}
		if c.Remove {
			b.WriteString("remove=true\n")
			continue
		}
		if c.NewEndpoint && c.Endpoint.IsValid() {
			fmt.Fprintf(&b, "endpoint=%s\n", unmap(netip.AddrPortFrom(c.Endpoint.Addr().WithZone(""), c.Endpoint.Port())))
		}
		if c.NewAllowedIPs {
			b.WriteString("replace_allowed_ips=true\n")
			for _, p := range c.AllowedIPs {
				fmt.Fprintf(&b, "allowed_ip=%s\n", p)
			}
		}
		if c.NewKeepalive {
			fmt.Fprintf(&b, "persistent_keepalive_interval=%d\n", keepaliveSeconds(c.Keepalive))
		}
	}
	return b.String()
}

// wholePeer says that a change suffices to make a peer: wg.Diff sets both for one that is new.
func wholePeer(c wg.Change) bool { return c.NewAllowedIPs && c.NewKeepalive }

// keepaliveSeconds is never 0, which is off, for what is not.
func keepaliveSeconds(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return min(max(int64(d.Round(time.Second)/time.Second), 1), 65535)
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// deviceStatus is what wireguard-go says of itself.
type deviceStatus struct {
	port  uint16
	peers []wg.Status // by key
}

// parseStatus reads the answer to a get. Keys that it does not know count for nothing.
func parseStatus(text string) (deviceStatus, error) {
	var s deviceStatus
	var sec, nsec int64
	finish := func() {
		if n := len(s.peers); n > 0 && (sec != 0 || nsec != 0) {
			s.peers[n-1].Handshake = time.Unix(sec, nsec)
		}
		sec, nsec = 0, 0
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return deviceStatus{}, errors.New("status of WireGuard: a line is not key=value")
		}
		var err error
		switch key {
		case "listen_port":
			s.port, err = parsePort(value)
		case "errno":
			if value != "0" {
				err = errors.New("WireGuard refused to answer")
			}
		case "public_key":
			finish()
			var p wg.Status
			p.Key, err = parseHexKey(value)
			s.peers = append(s.peers, p)
		case "last_handshake_time_sec":
			sec, err = parseCount(value, 1<<62)
		case "last_handshake_time_nsec":
			nsec, err = parseCount(value, int64(time.Second)-1)
		default:
			if len(s.peers) > 0 {
				err = parsePeerLine(&s.peers[len(s.peers)-1], key, value)
			}
		}
		if err != nil {
			return deviceStatus{}, fmt.Errorf("status of WireGuard: %s: %w", key, err)
		}
	}
	finish()
	sortStatus(s.peers)
	return s, nil
}

func parsePeerLine(p *wg.Status, key, value string) (err error) {
	switch key {
	case "endpoint":
		p.Endpoint, err = netip.ParseAddrPort(value)
	case "allowed_ip":
		var prefix netip.Prefix
		prefix, err = netip.ParsePrefix(value)
		p.AllowedIPs = append(p.AllowedIPs, prefix)
	case "tx_bytes":
		p.Sent, err = parseCount(value, 1<<63-1)
	case "rx_bytes":
		p.Received, err = parseCount(value, 1<<63-1)
	case "persistent_keepalive_interval":
		var seconds int64
		seconds, err = parseCount(value, 65535)
		p.Keepalive = time.Duration(seconds) * time.Second
	}
	return err
}

// sortStatus is wg.Plan's order: what wireguard-go and the kernel list comes in none.
func sortStatus(peers []wg.Status) {
	slices.SortStableFunc(peers, func(a, b wg.Status) int { return slices.Compare(a.Key[:], b.Key[:]) })
	for _, p := range peers {
		slices.SortFunc(p.AllowedIPs, func(a, b netip.Prefix) int {
			return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
		})
	}
}

func parseHexKey(value string) (k wg.Key, err error) {
	raw, err := hex.DecodeString(value)
	if err != nil || len(raw) != len(k) {
		return k, errors.New("want 32 bytes in hex")
	}
	copy(k[:], raw)
	return k, nil
}

func parsePort(value string) (uint16, error) {
	n, err := strconv.ParseUint(value, 10, 16)
	return uint16(n), err
}

func parseCount(value string, most int64) (int64, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err == nil && (n < 0 || n > most) {
		err = strconv.ErrRange
	}
	return n, err
}
