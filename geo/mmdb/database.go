package mmdb

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
	"github.com/oschwald/maxminddb-golang/v2/mmdbdata"
)

// database is one opened file: immutable, for any number of readers.
type database struct {
	info    Info
	reader  *maxminddb.Reader
	records *mmdbdata.Decoder // of the data section; only CursorAt is used, which leaves it as it is
}

// Of the format (https://maxmind.github.io/MaxMind-DB): the search tree, 16 zero bytes, the data section, this marker,
// the metadata.
const (
	metadataMarker = "\xAB\xCD\xEFMaxMind.com"
	separatorSize  = 16
	formatVersion  = 2
	maxMetadata    = 128 << 10 // marker included
)

// openChecked opens a file of unknown origin and looks into it.
func openChecked(source string, data []byte) (db *database, err error) {
	// The reader checks its bounds, and five million inputs of FuzzOpen found no panic in it; but this runs while the
	// proxy serves, and a panic would end that.
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, damaged(fmt.Errorf("%v", p))
		}
	}()
	if db, err = open(source, data); err != nil {
		return nil, err
	}
	if err = db.check(); err != nil {
		return nil, err
	}
	return db, nil
}

// open reads the metadata; it looks at neither tree nor records. The database keeps data. Like those of check, its errors
// are what the name of the file is the subject of.
func open(source string, data []byte) (*database, error) {
	tail := max(0, len(data)-maxMetadata)
	end := bytes.LastIndex(data[tail:], []byte(metadataMarker))
	if end < 0 {
		return nil, notMaxMind(data)
	}
	end += tail
	reader, err := maxminddb.OpenBytes(data, maxminddb.DisableStringCache())
	if err != nil {
		return nil, damaged(err)
	}
	meta := reader.Metadata
	if meta.BinaryFormatMajorVersion != formatVersion {
		return nil, fmt.Errorf("has version %d of the MaxMind DB format, this reads version %d",
			meta.BinaryFormatMajorVersion, formatVersion)
	}
	if meta.IPVersion != 4 && meta.IPVersion != 6 {
		return nil, damaged(fmt.Errorf("IP version %d", meta.IPVersion))
	}
	// OpenBytes checked that the tree lies within the data, with a product that a hostile node count can wrap.
	start := meta.NodeCount*(meta.RecordSize/4) + separatorSize
	if meta.RecordSize > 32 || meta.NodeCount > uint(end) || start > uint(end) {
		return nil, damaged(errors.New("its search tree is larger than the file"))
	}
	return &database{
		info: Info{
			Source:    source,
			Type:      cmp.Or(printable(meta.DatabaseType), "unnamed"),
			Built:     built(meta.BuildEpoch),
			IPVersion: int(meta.IPVersion),
		},
		reader:  reader,
		records: mmdbdata.NewDecoder(data[start:end], 0),
	}, nil
}

// name tells a person which database this is.
func (d *database) name() string {
	if d.info.Built.IsZero() {
		return d.info.Type
	}
	return d.info.Type + " built " + d.info.Built.Format(time.DateOnly)
}

// printable bounds what a file may put on terminals, into logs and the API. Types are ASCII by convention.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), 64)])
}

// built is zero for what cannot be the time of a build; years of five digits cannot be written as JSON either.
func built(epoch uint) time.Time {
	const year10000 = 253402300800
	if epoch == 0 || uint64(epoch) >= year10000 {
		return time.Time{}
	}
	return time.Unix(int64(epoch), 0).UTC()
}

// lookup fills rec with what the file knows about addr: nothing, if the file is damaged there.
func (d *database) lookup(addr netip.Addr, rec *record) {
	defer func() { // as in openChecked; too cheap to measure
		if recover() != nil {
			*rec = record{}
		}
	}()
	if d.find(addr, rec) != nil {
		*rec = record{}
	}
}

// find is lookup for callers that want to know of damage.
func (d *database) find(addr netip.Addr, rec *record) error {
	if d.info.IPVersion == 4 && !addr.Is4() {
		return nil // the reader would make an error of it, which allocates
	}
	result := d.reader.Lookup(addr)
	if !result.Found() {
		return result.Err()
	}
	return rec.read(d.records.CursorAt(uint(result.Offset())))
}
