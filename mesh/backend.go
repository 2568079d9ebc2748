package mesh

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/edgeproxy/edgeproxy/geo"
)

// Limits on what one row may hold. They bound the memory that a row written
// by anybody can cost every POP, not what an honest operator would want.
const (
	MaxName   = 255           // bytes of an id or app
	MaxNumber = math.MaxInt32 // weight, soft_limit and hard_limit
)

// BackendColumns are the ten columns of the table backends, in the order in
// which the seed's positional INSERTs write them and ParseBackend reads them.
var BackendColumns = [...]string{
	"id", "app", "region", "wg_ip", "port", "healthy",
	"weight", "soft_limit", "hard_limit", "deleted",
}

// Backend is one row of the table backends that makes sense, together with
// what backend_options says of the same id.
type Backend struct {
	ID        string
	App       string
	Region    geo.Region
	Addr      netip.AddrPort
	Healthy   bool  // the operator's word; what POPs observe is kept apart
	Weight    int64 // ≥ 0; 0 counts as 1
	SoftLimit int64 // comfortable number of connections; 0 counts as 1
	HardLimit int64 // greatest number of connections; 0 is unlimited
	Deleted   bool  // kept in the table, out of routing

	Draining bool   // no new connections, also not for bound clients
	Country  string // ISO 3166-1 alpha-2, or empty; for people, not for routing
	Check    *Check // its own, else its service's; nil: the POP's default

	ProxyOut     ProxyVersion  // what it is sent before the client's bytes: its own, else its service's
	Registration *Registration // nil: it is static
	Expired      bool          // it is registered, and nothing has been heard of it for too long

	POP string // it is the listener of this one, as in POP us-1, where an operator allows that; empty: it is none
}

// Capacity is what the load of the backend is measured against: soft_limit
// times weight, where 0 of either counts as 1.
func (b *Backend) Capacity() float64 {
	return float64(max(b.SoftLimit, 1)) * float64(max(b.Weight, 1))
}

// Routable says whether the operator lets new connections reach the backend.
func (b *Backend) Routable() bool {
	return b.Healthy && !b.Deleted && !b.Draining && !b.Expired && !b.Failing()
}

// Failing says whether its own agent says that it is down.
func (b *Backend) Failing() bool { return b.Registration != nil && b.Registration.Failing != "" }

// inherit fills in what the row leaves out and the service says.
func (b *Backend) inherit(s Service, row []any) {
	b.Check, b.ProxyOut = s.Check, s.ProxyOut
	if row[7] == nil && s.SoftLimit > 0 {
		b.SoftLimit = s.SoftLimit
	}
	if row[8] == nil {
		b.HardLimit = s.HardLimit
	}
}

// FieldError says which field of a row makes no sense, and why.
type FieldError struct {
	Field   string // column name
	Message string // what is wrong and what is allowed
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Message }

// FieldErrors are several that one row has, in the order of its columns or nearly
// so; errors.As finds the first.
type FieldErrors []*FieldError

func (e FieldErrors) Error() string { return fmt.Sprintf("%v (and %d more)", e[0], len(e)-1) }

// Unwrap is for package errors.
func (e FieldErrors) Unwrap() []error {
	list := make([]error, len(e))
	for i := range e {
		list[i] = e[i]
	}
	return list
}

func fieldErrorf(field, format string, args ...any) *FieldError {
	return &FieldError{Field: field, Message: fmt.Sprintf(format, args...)}
}

// ParseBackend reads a row whose values stand in the order of BackendColumns
// and have the types that an SQLite driver returns (nil, int64, float64,
// string, []byte). NULL means the documented default: healthy 1, weight 1,
// soft_limit 1, hard_limit unlimited, app empty, deleted 0. The error is a
// *FieldError, or FieldErrors.
func ParseBackend(row []any) (Backend, error) {
	if len(row) != len(BackendColumns) {
		return Backend{}, fieldErrorf("id", "row has %d columns, want %d", len(row), len(BackendColumns))
	}
	p := parser{}
	b := Backend{
		ID:        p.key("id", row[0]),
		App:       p.name("app", row[1]),
		Region:    p.region("region", row[2]),
		Addr:      netip.AddrPortFrom(p.addr("wg_ip", row[3]), uint16(p.integer("port", row[4], 0, 1, 65535))),
		Healthy:   p.integer("healthy", row[5], 1, math.MinInt64, math.MaxInt64) != 0,
		Weight:    p.integer("weight", row[6], 1, 0, MaxNumber),
		SoftLimit: p.integer("soft_limit", row[7], 1, 0, MaxNumber),
		HardLimit: p.integer("hard_limit", row[8], 0, 0, MaxNumber),
		Deleted:   p.integer("deleted", row[9], 0, math.MinInt64, math.MaxInt64) != 0,
	}
	return b, p.err()
}

// BackendOptionColumns are the columns of backend_options that ApplyOptions reads.
var BackendOptionColumns = [...]string{"id", "country", "draining", "health_check", "proxy_protocol"}

// ApplyOptions adds a row of backend_options, whose values stand in the order
// of BackendOptionColumns, to the backend. NULL means default: no country, not
// draining, the service's check and PROXY protocol. Beside a column that makes no sense the others
// still count: a misspelt country must not end a drain. The error is a *FieldError,
// or FieldErrors.
func (b *Backend) ApplyOptions(row []any) error {
	if len(row) != len(BackendOptionColumns) {
		return fieldErrorf("id", "row has %d columns, want %d", len(row), len(BackendOptionColumns))
	}
	var p parser
	country := p.name("country", row[1])
	if country != "" && !isCountry(country) {
		p.fail("country", "%q is not a two-letter country code", clip(country))
	}
	if !p.failed("country") {
		b.Country = strings.ToUpper(country)
	}
	draining := p.integer("draining", row[2], 0, math.MinInt64, math.MaxInt64)
	if !p.failed("draining") {
		b.Draining = draining != 0
	}
	if check := p.check("health_check", row[3]); check != nil {
		b.Check = check
	}
	if out, said := p.proxyVersion("proxy_protocol", row[4]); said {
		b.ProxyOut = out
	}
	return p.err()
}

// isCountry takes two ASCII letters; whether there is such a country is geo's to know.
func isCountry(s string) bool {
	letter := func(c byte) bool { c |= 0x20; return 'a' <= c && c <= 'z' }
	return len(s) == 2 && letter(s[0]) && letter(s[1])
}

// parser keeps the first error of each column, so that a row reads like a table
// of its columns.
type parser struct{ errs FieldErrors }

func (p *parser) fail(field, format string, args ...any) {
	if !p.failed(field) {
		p.errs = append(p.errs, fieldErrorf(field, format, args...))
	}
}

// failed says whether the column makes no sense.
func (p *parser) failed(field string) bool {
	return slices.ContainsFunc(p.errs, func(e *FieldError) bool { return e.Field == field })
}

func (p *parser) err() error {
	switch len(p.errs) {
	case 0:
		return nil
	case 1:
		return p.errs[0]
	}
	return p.errs
}

func (p *parser) text(field string, v any) (string, bool) {
	var s string
	switch v := v.(type) {
	case nil:
		return "", false
	case string:
		s = v
	case []byte:
		s = string(v)
	case int64:
		s = strconv.FormatInt(v, 10)
	default:
		p.fail(field, "%v is not text", v)
		return "", false
	}
	if !utf8.ValidString(s) {
		p.fail(field, "%q is not valid UTF-8", clip(s))
		return "", false
	}
	return s, true
}

// key reads the name of a row. It has to be text as SQLite has it: the API and
// the rows of other tables ask for a text, and find no blob and no number.
func (p *parser) key(field string, v any) string {
	kind := ""
	switch v.(type) {
	case nil:
		p.fail(field, "is NULL; give the row a name")
		return ""
	case []byte:
		kind = "blob"
	case int64:
		kind = "number"
	}
	if kind != "" {
		p.fail(field, "is a %s, not text: set it to CAST(%s AS TEXT), or delete the row", kind, field)
		return ""
	}
	s := p.name(field, v)
	if s == "" {
		p.fail(field, "is empty; give the row a name")
	}
	return s
}

func (p *parser) name(field string, v any) string {
	s, _ := p.text(field, v)
	switch {
	case p.failed(field):
	case len(s) > MaxName:
		p.fail(field, "is %d bytes long, at most %d are allowed", len(s), MaxName)
	case strings.ContainsFunc(s, unicode.IsControl):
		p.fail(field, "%q holds control characters", clip(s))
	}
	return s
}

func (p *parser) region(field string, v any) geo.Region {
	s, ok := p.text(field, v)
	if p.failed(field) {
		return ""
	}
	if !ok {
		p.fail(field, "is NULL; name the region of the backend, such as sa, us, eu or ap")
		return ""
	}
	r, err := geo.ParseRegion(s)
	if err != nil {
		p.fail(field, "%v", err)
	}
	return r
}

func (p *parser) addr(field string, v any) netip.Addr {
	s, _ := p.text(field, v)
	if p.failed(field) {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(strings.TrimSpace(s))
	a = a.Unmap()
	switch {
	case err != nil || len(a.Zone()) > maxZone || strings.ContainsFunc(a.Zone(), notGraphic):
		p.fail(field, "%q is not an IP address", clip(s))
	case a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		p.fail(field, "%s is no address that a backend can have", a)
	}
	return a
}

// maxZone is the length of the longest name that Linux gives a network
// interface, IFNAMSIZ less its NUL.
const maxZone = 15

func notGraphic(r rune) bool { return r <= ' ' || !unicode.IsGraphic(r) }

// integer takes what SQLite's column affinity may have left of a number that
// somebody typed: an integer, a float without a fraction, or digits as text.
func (p *parser) integer(field string, v any, null, least, most int64) int64 {
	var n int64
	switch v := v.(type) {
	case nil:
		n = null
	case int64:
		n = v
	case float64:
		if v != math.Trunc(v) || math.Abs(v) > 1<<53 {
			p.fail(field, "%v is not a whole number", v)
			return 0
		}
		n = int64(v)
	case bool:
		if v {
			n = 1
		}
	default:
		s, _ := p.text(field, v)
		var err error
		if n, err = strconv.ParseInt(strings.TrimSpace(s), 10, 64); err != nil {
			p.fail(field, "%q is not a whole number", clip(s))
			return 0
		}
	}
	if n < least || n > most {
		p.fail(field, "%d is out of range %d to %d", n, least, most)
	}
	return n
}

// clip shortens what somebody wrote so that it can stand in a message.
func clip(s string) string { return clipTo(s, 64) }

// Shorten makes s at most so many bytes, of which the last are an ellipsis where
// it was longer: what was shortened is not shortened again.
func Shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return clipTo(s, most-len("…"))
}

func clipTo(s string, most int) string {
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > most-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
