//go:build !cgo

package sqlite

import (
	"errors"

	driver "modernc.org/sqlite"
)

// Driver is the name under which database/sql knows the driver of this build:
// SQLite translated to Go where cgo is off. The C driver would build without
// cgo too, and fail at run time.
const Driver = "sqlite"

// resultCode is SQLite's primary result code of an error, 0 where it has none.
func resultCode(err error) int {
	if e, ok := errors.AsType[*driver.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}
