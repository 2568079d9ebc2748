// Package exhausted tells whether this machine has run out of something.
//
//	if !exhausted.Is(err) { /* it is the backend that does not answer */ }
//
// Such an error from a connect says nothing of whoever was connected to.
package exhausted

import (
	"errors"
	"syscall"
)

// Is says that a system call failed for a lack on this side: descriptors,
// ports, buffers or memory.
func Is(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EADDRNOTAVAIL) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}
