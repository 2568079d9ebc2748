//go:build cgo

package sqlite

import (
	"errors"
	"fmt"

	driver "github.com/mattn/go-sqlite3"
)

// Driver is the name under which database/sql knows the driver of this build:
// the C library where cgo is on.
const Driver = "sqlite3"

// resultCode is SQLite's primary result code of an error, 0 where it has none.
func resultCode(err error) int {
	if e, ok := errors.AsType[driver.Error](err); ok {
		return int(e.Code)
	}
	return 0
}

// guard limits what statements on the connection may cost, and has all they do
// allowed first.
func (c *conn) guard(limits map[int]int, allows func(action int, first, second string) bool) error {
	return c.Raw(func(raw any) error {
		d, ok := raw.(*driver.SQLiteConn)
		if !ok {
			return fmt.Errorf("%T takes no authorizer", raw)
		}
		for id, most := range limits {
			d.SetLimit(id, most)
			if d.GetLimit(id) != most {
				return fmt.Errorf("SQLite takes no limit %d", id)
			}
		}
		d.RegisterAuthorizer(func(action int, first, second, _ string) int {
			if allows(action, first, second) {
				return driver.SQLITE_OK
			}
			return driver.SQLITE_DENY
		})
		return nil
	})
}
