package mmdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unicode/utf8"

	"github.com/oschwald/maxminddb-golang/v2"
)

const (
	// checkLeaves bounds the search for a country. Between two records of a sound tree lie at most 128 empty leaves, so
	// that it sees at least a thousand records.
	checkLeaves = 1 << 17
	// checkProbes is the number of addresses of each version that are looked up to find damage.
	checkProbes = 2048
)

// check looks for a country, and at a sample of the whole for damage. It is no proof (the format has no checksums, and
// reading all of a large file would delay the start by seconds), but it refuses other kinds of databases, and files that
// are only partly written, in which many lookups end nowhere.
func (d *database) check() error {
	records, first, err := d.search()
	if err != nil {
		return damaged(err)
	}
	probed, err := d.probe()
	switch {
	case err != nil:
		return damaged(err)
	case first || probed:
		return nil
	case records == 0:
		return errors.New("has no networks in it: use a Country or City database")
	}
	return fmt.Errorf("says nothing about countries (it is of type %s): use a Country or City database, such as GeoLite2-Country.mmdb",
		d.info.Type)
}

// search goes through the networks in order until one has a country.
func (d *database) search() (records int, found bool, err error) {
	leaves := 0
	// Those without data too: a damaged tree may lead round in circles that hold none.
	for result := range d.reader.Networks(maxminddb.IncludeNetworksWithoutData()) {
		if err := result.Err(); err != nil {
			return records, false, err
		}
		if result.Found() {
			records++
			var rec record
			err := rec.read(d.records.CursorAt(uint(result.Offset())))
			if err != nil || rec.country.known() {
				return records, err == nil, err
			}
		}
		if leaves++; leaves == checkLeaves {
			break
		}
	}
	return records, false, nil
}

// probe looks up addresses all over the tree.
func (d *database) probe() (found bool, err error) {
	for i := range uint32(checkProbes) {
		// Multiples of 2³²/φ spread evenly over all prefixes (Knuth, The Art of Computer Programming 3, 6.4).
		spread := i * 2654435769
		v4 := [4]byte(binary.BigEndian.AppendUint32(nil, spread))
		v6 := [16]byte{}
		binary.BigEndian.PutUint32(v6[:], spread>>3|0x2000_0000) // 2000::/3: all of IPv6 that is in use
		for _, addr := range [...]netip.Addr{netip.AddrFrom4(v4), netip.AddrFrom16(v6)} {
			var rec record
			if err := d.find(addr, &rec); err != nil {
				return found, err
			}
			found = found || rec.country.known()
		}
	}
	return found, nil
}

func damaged(err error) error {
	return fmt.Errorf("is damaged (%w): download it again", err)
}

// notMaxMind says what a file without MaxMind metadata seems to be; these are the mistakes that people make.
func notMaxMind(data []byte) error {
	head := data[:min(len(data), 512)]
	text := bytes.TrimSpace(head)
	switch {
	case len(data) == 0:
		return errors.New("is empty: download it again")
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return errors.New("is compressed with gzip: unpack it and name the .mmdb file in it")
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return errors.New("is a zip archive: unpack it and name the .mmdb file in it")
	case len(head) >= 262 && string(head[257:262]) == "ustar":
		return errors.New("is a tar archive: unpack it and name the .mmdb file in it")
	case bytes.HasPrefix(text, []byte("<")):
		return errors.New("is a web page, not a MaxMind database: the download was answered with an error or a login")
	case len(text) > 0 && isText(head):
		return errors.New("is text, not a MaxMind database: use the .mmdb edition, not the CSV one")
	}
	return errors.New("has no MaxMind metadata at its end: it is no MaxMind database, or its download was cut short; download it again")
}

// isText allows for a rune that is cut by the end of head.
func isText(head []byte) bool {
	for len(head) > 0 {
		r, n := utf8.DecodeRune(head)
		if r < ' ' && r != '\n' && r != '\r' && r != '\t' || r == utf8.RuneError && n == 1 && len(head) >= utf8.UTFMax {
			return false
		}
		head = head[n:]
	}
	return true
}
