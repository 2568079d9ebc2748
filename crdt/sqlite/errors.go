package sqlite

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
)

// Sentinels that callers branch on. Each comes wrapped in a sentence that
// names the file, what is wrong with it and what to do.
var (
	ErrVanished = errors.New("file is gone")
	ErrReadOnly = errors.New("database is read-only")
	ErrNewer    = errors.New("file was written by a newer version")
	ErrShape    = errors.New("table has another shape")
	ErrLocked   = errors.New("database is locked")
	ErrDamaged  = errors.New("file is not a sound SQLite database")
	ErrFull     = errors.New("disk is full")
	ErrUntimed  = errors.New("no clock but this machine's is known yet: waiting for the first other POP")
)

// Primary result codes, https://www.sqlite.org/rescode.html.
const (
	codeError      = 1
	codeBusy       = 5
	codeLocked     = 6
	codeNoMem      = 7
	codeReadOnly   = 8
	codeInterrupt  = 9
	codeIO         = 10
	codeCorrupt    = 11
	codeFull       = 13
	codeCantOpen   = 14
	codeConstraint = 19
	codeNotADB     = 26
)

// unusable says whether an error is the connection's or the file's rather than
// the caller's or of the moment, so that opening anew is worth a try.
func unusable(err error) bool {
	switch resultCode(err) {
	case 0:
		return errors.Is(err, sql.ErrConnDone) || errors.Is(err, driver.ErrBadConn)
	case codeBusy, codeLocked, codeReadOnly, codeInterrupt, codeFull, codeConstraint:
		return false
	}
	return true
}

// explain adds to an error of the driver what a person needs to mend it.
func (s *Store) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	kind, remedy := error(nil), ""
	code := resultCode(err)
	if code == codeError && strings.Contains(err.Error(), "unsupported file format") {
		code = codeCorrupt // the number of a format of tables that does not exist
	}
	switch code {
	case codeBusy, codeLocked:
		kind, remedy = ErrLocked, "another process holds it; end its transaction (fuser "+s.path+" names it)"
	case codeReadOnly:
		kind, remedy = ErrReadOnly, "give this user the right to write the file and its directory"
	case codeCorrupt:
		kind, remedy = ErrDamaged, "restore it from a backup, or move it away to begin with an empty one"
	case codeNotADB:
		kind, remedy = ErrDamaged, "this is no SQLite file; name another one in EDGEPROXY_DB_PATH or move it away"
	case codeFull:
		kind, remedy = ErrFull, "free some space; nothing was written"
	case codeCantOpen:
		return fmt.Errorf("%s %s: %w: check that it is a file and that this user may read and write it and its directory", doing, s.path, err)
	default:
		return fmt.Errorf("%s %s: %w", doing, s.path, err)
	}
	return fmt.Errorf("%s %s: %w (%w): %s", doing, s.path, kind, err, remedy)
}
