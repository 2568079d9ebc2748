//go:build !linux

package sqlite

import "errors"

// Notices are had on Linux only: elsewhere, Poll often.
func (s *Store) Notices() (notices <-chan struct{}, stop func(), err error) {
	return nil, nil, errors.ErrUnsupported
}
