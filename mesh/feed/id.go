package feed

import (
	"errors"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ID names a place in the log of one life of one POP.
type ID struct {
	Node    string
	Epoch   uint64
	Arrival uint64
}

// String is node/epoch/arrival, as ParseID reads it.
func (i ID) String() string {
	return i.Node + "/" + strconv.FormatUint(i.Epoch, 10) + "/" + strconv.FormatUint(i.Arrival, 10)
}

// maxID is how long the text of an ID may be.
const maxID = 512

var errID = errors.New(`is no id of an event, such as "sa-1f2e3d4c/17/4711"`)

// ParseID reads what String wrote, and nothing else.
func ParseID(text string) (ID, error) {
	bad := len(text) > maxID || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl)
	rest, arrival, ok := cutLast(text)
	node, epoch, ok2 := cutLast(rest)
	if bad || !ok || !ok2 || node == "" {
		return ID{}, errID
	}
	id := ID{Node: node}
	var err, err2 error
	id.Epoch, err = strconv.ParseUint(epoch, 10, 64)
	id.Arrival, err2 = strconv.ParseUint(arrival, 10, 64)
	if err != nil || err2 != nil || id.String() != text {
		return ID{}, errID
	}
	return id, nil
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
