package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Inspect reads the operator's tables of a file without adopting it: it
// changes nothing, creates nothing and also checks that the file is sound.
func Inspect(ctx context.Context, path string) (*Image, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open %s: %w: edgeproxy serve creates it, or make it with sql/create_routing_db.sql", path, ErrVanished)
	}
	s := &Store{path: path, readOnly: true}
	c, err := connect(ctx, uri(path, "ro"), busyTimeout)
	if err != nil {
		return nil, s.explain("open", err)
	}
	defer c.Close()
	s.reader = c
	if err := s.sound(ctx, c); err != nil {
		return nil, err
	}
	if _, err := s.checkVersion(ctx, c); err != nil {
		return nil, err
	}
	if _, err := s.checkShape(ctx, c); err != nil {
		return nil, err
	}
	if have, err := columnsOf(ctx, c, Backends.Name); err != nil || len(have) == 0 {
		if err == nil {
			err = fmt.Errorf("read %s: %w: there is no table backends: edgeproxy serve adds it, or sql/create_routing_db.sql", path, ErrShape)
		}
		return nil, err
	}
	return s.Read(ctx)
}
