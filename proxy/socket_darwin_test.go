package proxy

import "golang.org/x/sys/unix"

const optionCork = unix.TCP_NOPUSH
