package device

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/edgeproxy/edgeproxy/wg"
)

// Mode is where WireGuard runs.
type Mode string

const (
	Kernel   Mode = "kernel"   // in Linux: an interface of type wireguard
	TUN      Mode = "tun"      // in this process, on a TUN interface
	Netstack Mode = "netstack" // in this process, with a TCP/IP stack of its own: needs no rights
)

// What keeps a device from opening, for callers that choose another mode then.
// What Open returns says which interface, port or address, and what to do.
var (
	ErrRights      = errors.New("needs CAP_NET_ADMIN: run as root, give the capability, or use --wg=netstack")
	ErrNoTUN       = errors.New("/dev/net/tun is not there: modprobe tun, or in a container --device /dev/net/tun, or use --wg=netstack")
	ErrNoKernel    = errors.New("this kernel has no WireGuard: modprobe wireguard, or use --wg=tun")
	ErrUnsupported = errors.New("needs Linux: use --wg=netstack")
	ErrForeign     = errors.New("exists and is not ours")
	ErrPortTaken   = errors.New("is taken")
	ErrAddress     = errors.New("is another interface's already")
	ErrMTU         = errors.New("MTU")
	ErrNoIPv6      = errors.New("IPv6 is off here: sysctl -w net.ipv6.conf.default.disable_ipv6=0, or in a container --sysctl net.ipv6.conf.default.disable_ipv6=0")
)

// Config is one device.
type Config struct {
	Mode       Mode
	Interface  string // netstack: only names the socket for wg(8), none if empty
	Port       uint16 // UDP, of both families; 0: any, see Device.Port
	PrivateKey [32]byte
	Addresses  []netip.Prefix // own, each with its network's length: 10.50.0.7/16 makes the connected route
	MTU        int            // 0: wg.MTU
	Node       string         // this POP: marks a kernel interface as ours
	Forward    bool           // packets of peers for others pass through
}

const (
	overhead = 80 // WireGuard's over IPv6, see wg.MTU
	minMTU4  = 576
	minMTU6  = 1280 // RFC 8200, section 5
	maxMTU   = 65535 - overhead
)

// withDefaults is cfg, checked: the error names everything that is wrong.
func (cfg Config) withDefaults() (Config, error) {
	var errs []error
	if cfg.MTU == 0 {
		cfg.MTU = wg.MTU
	}
	switch cfg.Mode {
	case Kernel, TUN:
		if err := validName(cfg.Interface); err != nil {
			errs = append(errs, err)
		}
	case Netstack:
		if cfg.Interface != "" {
			if err := validName(cfg.Interface); err != nil {
				errs = append(errs, err)
			}
		}
	default:
		errs = append(errs, fmt.Errorf("WireGuard mode %q: want kernel, tun or netstack (--wg)", cfg.Mode))
	}
	if cfg.PrivateKey == ([32]byte{}) {
		errs = append(errs, errors.New("private key: a key of zeros is none"))
	}
	errs = append(errs, validAddresses(cfg.Addresses, cfg.MTU))
	return cfg, errors.Join(errs...)
}

func validAddresses(addresses []netip.Prefix, mtu int) error {
	least := minMTU4
	for _, a := range addresses {
		if !a.IsValid() || a.Addr().Is4In6() || a.Addr().Zone() != "" || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			return fmt.Errorf("own address %s: want an IPv4 or IPv6 address with its network's length, such as 10.50.0.7/16", a)
		}
		if a.Addr().Is6() {
			least = minMTU6
		}
	}
	switch {
	case mtu < least && least == minMTU6:
		return fmt.Errorf("%w %d is too small for IPv6: give --wg-mtu at least %d", ErrMTU, mtu, least)
	case mtu < least:
		return fmt.Errorf("%w %d is too small: give --wg-mtu at least %d", ErrMTU, mtu, least)
	case mtu > maxMTU:
		return fmt.Errorf("%w %d is too large: give --wg-mtu at most %d", ErrMTU, mtu, maxMTU)
	}
	return nil
}

// validName keeps to what Linux takes and what is no path or pattern.
func validName(name string) error {
	if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsAny(name, "/:% \t\n\v\f\r\x00") {
		return fmt.Errorf("interface name %q: want 1 to 15 characters, no slash, colon, percent sign or space (--wg-interface)", name)
	}
	return nil
}

func foreign(name string) error {
	return fmt.Errorf("interface %s %w: name another with --wg-interface, or remove it with \"ip link del %s\"", name, ErrForeign, name)
}

func portTaken(port uint16) error {
	return fmt.Errorf("UDP port %d %w: name another with --wg-port", port, ErrPortTaken)
}

func gone(name string) error {
	return fmt.Errorf("interface %s is gone: someone has deleted it", name)
}
