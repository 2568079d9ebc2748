// Package mmdb finds the country of an address, and the position where the file has one, in a MaxMind DB file.
//
//	table, _ := geo.NewTable(nil)
//	r, err := mmdb.New(mmdb.Config{Path: "GeoLite2-City.mmdb"}, table) // no Path: the database that is built in
//	if err != nil {
//		return err // says what is wrong with the file and what to do
//	}
//	go r.Run(ctx) // picks up a replaced file
//	place := r.Lookup(netip.MustParseAddr("200.160.2.3")) // {Country: "BR", Region: "sa", At: …}
//
// Invariants: Lookup takes no lock, allocates nothing and never fails: whatever is in the file, an address that cannot be
// placed gives the zero Place. A database is checked before it is used and then never changes; one that does not pass
// leaves the previous one in place, and Err says why. Country codes are the geo.Table's strings, never the file's bytes.
//
// It reads the schemas of MaxMind and DB-IP (country.iso_code, location.latitude) and flat ones (country_code). It does
// not download databases, does not read names of cities or networks, and does not log: Run hands its news to OnReload.
package mmdb

import (
	"context"
	_ "embed" // country.mmdb
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
)

// country.mmdb.LICENSE and the NOTICE at the root say where it comes from.
//
//go:embed country.mmdb
var embedded []byte

// DefaultPoll is how often Run looks at the file unless Config says otherwise.
const DefaultPoll = 2 * time.Second

// Config of a Resolver. Its zero value uses the embedded country database.
type Config struct {
	Path string        // of a .mmdb file with countries in it; empty: the embedded database
	Poll time.Duration // how often Run looks whether the file was replaced; 0: DefaultPoll

	// OnReload, where set, is called by Run (in its goroutine) after it took a new file into use, and with the error
	// when it could not, once per state of the file. Info is of the database then in use. Reload does not call it.
	OnReload func(Info, error)
}

// Info describes the database in use.
type Info struct {
	Source    string    // "embedded" or the path
	Type      string    // database_type of its metadata, such as "GeoLite2-Country"; "unnamed" without
	Built     time.Time // UTC; zero where the file does not say
	IPVersion int       // 4: it knows IPv4 addresses only; 6: both
}

// Resolver answers Lookup from a database. All methods are safe for concurrent use.
type Resolver struct {
	cfg   Config
	table atomic.Pointer[geo.Table]
	state atomic.Pointer[state] // never nil after New

	mu    sync.Mutex  // held while a file is read, so that an older one never replaces a newer
	tried os.FileInfo // of the file as it was last read; nil when reading failed
}

// state pairs the database in use with the last failure to replace it, so that readers see both of one moment.
type state struct {
	db  *database
	err error
}

// New opens and checks the database: a POP that cannot read the file it was told to use should say so before it serves.
func New(cfg Config, table *geo.Table) (*Resolver, error) {
	switch {
	case table == nil:
		return nil, errors.New("geoip resolver needs a country table")
	case cfg.Poll < 0:
		return nil, fmt.Errorf("geoip poll interval %s is negative: want a duration such as 2s, or 0 for %s", cfg.Poll, DefaultPoll)
	case cfg.Poll == 0:
		cfg.Poll = DefaultPoll
	}
	r := &Resolver{cfg: cfg}
	r.table.Store(table)
	db, err := r.open()
	if err != nil {
		return nil, err
	}
	r.state.Store(&state{db: db})
	return r, nil
}

// open reads the configured database and notes which state of the file that was.
func (r *Resolver) open() (*database, error) {
	r.tried = nil
	if r.cfg.Path == "" {
		// Not checked at every start: the tests of this package did that.
		return open("embedded", embedded)
	}
	var db *database
	data, info, err := readFile(r.cfg.Path)
	if err == nil {
		r.tried = info
		db, err = openChecked(r.cfg.Path, data)
	}
	if err != nil {
		return nil, fmt.Errorf("geoip database %s: %w", r.cfg.Path, err)
	}
	return db, nil
}

// Lookup places a client. IPv4-mapped IPv6 addresses count as IPv4 and zones are ignored. Addresses that are not on the
// public internet (private, loopback, link-local, 100.64.0.0/10, multicast, unspecified) and those that the database
// does not know give the zero Place. At is the client's own position where the file has it, else its country's.
func (r *Resolver) Lookup(addr netip.Addr) geo.Place {
	addr = addr.Unmap() // zones need no care: neither public nor the reader looks at them
	if !public(addr) {
		return geo.Place{}
	}
	var rec record
	r.state.Load().db.lookup(addr, &rec)
	// The conversion does not allocate because Place does not keep its argument.
	place, _ := r.table.Load().Place(string(rec.country[:]))
	if rec.located {
		place.At = rec.position.Vector()
	}
	return place
}

// public is false for what only means something inside somebody's own network, whatever a database says about it.
func public(addr netip.Addr) bool {
	if !addr.IsGlobalUnicast() || addr.IsPrivate() {
		return false
	}
	if addr.Is4() {
		b := addr.As4()
		return b[0] != 100 || b[1]&0xc0 != 64 // RFC 6598: between a carrier's NAT and its customers
	}
	return true
}

// SetTable replaces the country table, which must not be nil; lookups from then on use it.
func (r *Resolver) SetTable(table *geo.Table) { r.table.Store(table) }

// Reload reads the file again and takes it into use if it passes the checks; otherwise the previous database stays and
// the error is also what Err returns. With the embedded database there is nothing to do.
func (r *Resolver) Reload() error {
	if r.cfg.Path == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	db, err := r.open()
	if err != nil {
		old := r.state.Load().db
		err = fmt.Errorf("%w (%s stays in use)", err, old.name())
		r.state.Store(&state{db: old, err: err})
		return err
	}
	r.state.Store(&state{db: db})
	return nil
}

// Err is the failure of the last attempt to reload, nil if it succeeded or there was none.
func (r *Resolver) Err() error { return r.state.Load().err }

// Info describes the database in use.
func (r *Resolver) Info() Info { return r.state.Load().db.info }

// Run watches the file until ctx ends and returns nil. It reloads when the file is another or has changed, and has then
// stayed the same for one poll, so that a copy in progress is not read half-way. With the embedded database it waits.
func (r *Resolver) Run(ctx context.Context) error {
	if r.cfg.Path == "" {
		<-ctx.Done()
		return nil
	}
	r.mu.Lock()
	w := watch{r: r, seen: r.tried}
	r.mu.Unlock()
	ticker := time.NewTicker(r.cfg.Poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			w.poll()
		}
	}
}
