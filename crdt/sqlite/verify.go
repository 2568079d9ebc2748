package sqlite

import (
	"bytes"
	"context"
	"slices"
)

// Verify reads the tables through a connection of its own, which has cached
// nothing, and compares them with what Read says. Where they differ the next
// Poll opens the file anew: something changed it in a way, or at a moment,
// that Poll could not see, such as a cp over it while the log was folded.
func (s *Store) Verify(ctx context.Context) (same bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reader == nil {
		return false, s.broken
	}
	if same, err = s.verifyLocked(ctx); err != nil || !same {
		s.stale = true
	}
	return same, s.explain("read", err)
}

func (s *Store) verifyLocked(ctx context.Context) (same bool, err error) {
	cached, err := s.readLocked(ctx)
	if err != nil {
		return false, err
	}
	fresh, err := s.readFreshLocked(ctx)
	return err == nil && fresh.equal(cached), err
}

func (img *Image) equal(other *Image) bool {
	return SameRows(img.Backends, other.Backends) && SameRows(img.BackendOptions, other.BackendOptions) &&
		SameRows(img.Services, other.Services) && SameRows(img.Registrations, other.Registrations) &&
		SameRows(img.PopStatus, other.PopStatus) && SameRows(img.PopKeys, other.PopKeys) &&
		SameRows(img.WGPops, other.WGPops) && SameRows(img.WGPeers, other.WGPeers)
}

// SameRows compares values as the driver gives them: of SQLite's five kinds.
func SameRows(a, b [][]any) bool {
	return slices.EqualFunc(a, b, func(a, b []any) bool {
		return slices.EqualFunc(a, b, func(a, b any) bool {
			blob, is := a.([]byte)
			other, too := b.([]byte)
			if is || too {
				return is && too && bytes.Equal(blob, other)
			}
			return a == b
		})
	})
}

// readFreshLocked reads the file as a process that has just come would.
func (s *Store) readFreshLocked(ctx context.Context) (*Image, error) {
	c, err := connect(ctx, uri(s.path, "rw"), s.busy)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	fresh := &Store{path: s.path, readOnly: s.readOnly, reader: c}
	return fresh.readLocked(ctx)
}
