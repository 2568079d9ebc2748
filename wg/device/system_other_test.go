//go:build !linux

package device

func isolate() {}
