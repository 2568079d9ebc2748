//go:build !linux

package clustertests

import "errors"

func underFaults([]string) error {
	return errors.New("only the kernel of Linux asks before system calls")
}
