//go:build unix

package handover

import (
	"os"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
)

// pair is two connected sockets, the second one for a child.
func pair() (own, its *os.File, err error) { return socketPair(syscall.SOCK_STREAM) }

// Mailbox is two ends of which what is written to the second is read, in whole
// messages, from the first, by whichever process has it.
func Mailbox() (reader, writer *os.File, err error) { return socketPair(syscall.SOCK_DGRAM) }

func socketPair(kind int) (*os.File, *os.File, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, kind, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
	}
	return os.NewFile(uintptr(fds[0]), "own"), os.NewFile(uintptr(fds[1]), "its"), nil
}

func closeOnExec(f *os.File) { syscall.CloseOnExec(int(f.Fd())) }

// fromSystemd is what socket activation has for this process, nil for nothing.
// A socket without a name of its own is called as its unit.
func fromSystemd() *Estate {
	files := activation.Files(true)
	if len(files) == 0 {
		return nil
	}
	e := &Estate{}
	for _, f := range files {
		e.sockets = append(e.sockets, Socket{f.Name(), f})
	}
	return e
}
