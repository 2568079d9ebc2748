//go:build cgo

package sqlite

import (
	"errors"

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
