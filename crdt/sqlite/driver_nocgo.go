//go:build !cgo

package sqlite

import (
	"errors"
	"fmt"

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

// guard limits what statements on the connection may cost, and has all they do
// allowed first.
func (c *conn) guard(limits map[int]int, allows func(action int, first, second string) bool) error {
	for id, most := range limits {
		if _, err := driver.Limit(c.Conn, id, most); err != nil {
			return err
		}
		if now, err := driver.Limit(c.Conn, id, -1); err != nil || now != most {
			return fmt.Errorf("SQLite takes no limit %d (%w)", id, err)
		}
	}
	return c.Raw(func(raw any) error {
		d, ok := raw.(driver.AuthorizerRegisterer)
		if !ok {
			return fmt.Errorf("%T takes no authorizer", raw)
		}
		return d.RegisterAuthorizer(func(action driver.AuthorizerActionCode, first, second, _, _ string) driver.AuthorizerReturnCode {
			if allows(int(action), first, second) {
				return driver.AuthorizerOK
			}
			return driver.AuthorizerDeny
		})
	})
}
