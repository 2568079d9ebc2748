package mesh

import (
	"math"
	"time"
)

// RegistrationColumns are the columns of the table registrations.
var RegistrationColumns = [...]string{"id", "pop", "heartbeat_ms", "registered_ms", "ttl_secs", "failing"}

// Registration is what is known of a backend that announced itself: one row of
// the table registrations.
type Registration struct {
	POP        string        // that heard the last heartbeat
	Heartbeat  time.Time     // when that was, in mesh time; Unix time 0: never
	Registered time.Time     // Unix time 0: nobody says
	TTL        time.Duration // without a heartbeat for so long it is out of routing
	Failing    string        // why its agent says that it is down; empty: it is not
}

// MaxFailing is how long Registration.Failing is at most, in bytes. Who writes
// more has it written again at each heartbeat.
const MaxFailing = 120

// DefaultTTL is that of a registration which names none.
const DefaultTTL = time.Minute

// ParseRegistration reads a row whose values stand in the order of
// RegistrationColumns. The error is a *FieldError, or FieldErrors.
func ParseRegistration(row []any) (id string, r Registration, err error) {
	if len(row) != len(RegistrationColumns) {
		return "", r, fieldErrorf("id", "row has %d columns, want %d", len(row), len(RegistrationColumns))
	}
	p := parser{}
	id = p.key("id", row[0])
	r = Registration{
		POP:        p.name("pop", row[1]),
		Heartbeat:  time.UnixMilli(p.integer("heartbeat_ms", row[2], 0, 0, math.MaxInt64/int64(time.Millisecond))),
		Registered: time.UnixMilli(p.integer("registered_ms", row[3], 0, 0, math.MaxInt64/int64(time.Millisecond))),
		TTL:        time.Duration(p.integer("ttl_secs", row[4], int64(DefaultTTL/time.Second), 1, int64(maxSpan/time.Second))) * time.Second,
	}
	failing, _ := p.text("failing", row[5])
	r.Failing = Shorten(failing, MaxFailing)
	return id, r, p.err()
}

// register adds a row of registrations to its backend. One that makes no sense
// leaves its backend static: it must not take a backend out of routing.
func (s *Snapshot) register(row []any, expired map[string]bool) error {
	id, r, err := ParseRegistration(row)
	if err != nil {
		return err
	}
	b, ok := s.Backend(id)
	if !ok {
		return nil // as options, it may be there before its backend
	}
	if b.Registration != nil {
		return errTwice
	}
	b.Registration, b.Expired = &r, expired[id]
	return nil
}

// Age is how long ago the last heartbeat was at a moment of mesh time.
func (r *Registration) Age(now time.Time) time.Duration { return max(0, now.Sub(r.Heartbeat)) }
