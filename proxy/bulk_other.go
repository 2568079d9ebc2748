//go:build unix && !linux

package proxy

// bulk is a shortcut for large transfers that only Linux has.
func (d *direction) bulk() bool { return true }
