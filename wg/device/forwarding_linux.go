package device

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// setForwarding lets Linux forward what comes in by our interface. It sets
// nothing but the interface's own: IPv6 had no such switch before Linux 6.17,
// and there all interfaces must have been told to, by the machine's owner.
func (l *systemLink) setForwarding(on bool) error {
	if err := l.present(); err != nil {
		return err
	}
	four := fmt.Sprintf("/proc/sys/net/ipv4/conf/%s/forwarding", l.name)
	if err := setSwitch(four, on); err != nil {
		if on {
			return fmt.Errorf("interface %s: forward packets: %w: sysctl -w net.ipv4.conf.%s.forwarding=1 from outside of the container", l.name, err, l.name)
		}
		l.log.Warn().Err(err).Str("interface", l.name).Msg("interface forwards packets of peers and cannot be told not to")
	}
	six := fmt.Sprintf("/proc/sys/net/ipv6/conf/%s/force_forwarding", l.name)
	err := setSwitch(six, on)
	if err == nil || !on {
		return nil
	}
	if all, err := readSwitch("/proc/sys/net/ipv6/conf/all/forwarding"); errors.Is(err, fs.ErrNotExist) || all {
		return nil // no IPv6 at all, or all that it takes
	}
	l.log.Warn().Str("interface", l.name).Str("remedy", "sysctl -w net.ipv6.conf.all.forwarding=1").Msg("this kernel does not forward IPv6: peers that only reach each other through this POP will not, by IPv6")
	return nil
}

// enableIPv6 is for where new interfaces have none, as in containers. Where it
// does not work adding the address says so.
func (l *systemLink) enableIPv6() {
	if err := setSwitch(fmt.Sprintf("/proc/sys/net/ipv6/conf/%s/disable_ipv6", l.name), false); err != nil {
		l.log.Debug().Err(err).Str("interface", l.name).Msg("could not switch IPv6 on")
	}
}

func readSwitch(path string) (bool, error) {
	text, err := os.ReadFile(path)
	return len(bytes.TrimSpace(text)) > 0 && bytes.TrimSpace(text)[0] != '0', err
}

// setSwitch writes only what is not so already: /proc/sys is read-only in many containers.
func setSwitch(path string, on bool) error {
	is, err := readSwitch(path)
	if err != nil || is == on {
		return err
	}
	value := "0"
	if on {
		value = "1"
	}
	return os.WriteFile(path, []byte(value), 0o644)
}
