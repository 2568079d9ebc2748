package mesh

import (
	"cmp"
	"slices"
	"time"
)

// ServiceColumns are the columns of the table services that ParseService reads.
var ServiceColumns = [...]string{"app", "health_check", "panic_threshold", "soft_limit", "hard_limit",
	"listen", "mode", "sni", "alpn", "affinity_ttl", "proxy_protocol", "connect_timeout_ms", "idle_timeout_secs", "max_connections"}

// Service is one app, one row of the table services: where every POP listens
// for it, and what holds for all of its backends that do not say otherwise.
type Service struct {
	App       string
	Check     *Check // nil: the POP's default
	Panic     *int64 // percent of the backends that must be up, or checks are not believed; nil: the POP's default
	SoftLimit int64  // of backends whose own is NULL; 0: nothing is said
	HardLimit int64  // the same

	Listen         []string // host:port, as net.Listen takes it; none: only the POP's default listener may serve it
	Mode           Mode
	SNI            []string       // names by which TLS clients ask for it
	ALPN           []string       // of TLSTerminate: protocols offered, the first that the client knows is taken
	AffinityTTL    *time.Duration // for which a client keeps its backend; 0: it does not; nil: the POP's default
	ProxyOut       ProxyVersion   // what its backends are sent
	ConnectTimeout time.Duration  // 0: the POP's default
	IdleTimeout    time.Duration  // 0: the POP's default
	MaxConnections int64          // open at a time through one POP; 0: no bound
}

// ParseService reads a row whose values stand in the order of ServiceColumns.
// NULL means the default. Beside a column that makes no sense the others still
// count: a misspelt check must not lift a limit. The error is a *FieldError,
// or FieldErrors.
func ParseService(row []any) (Service, error) {
	if len(row) != len(ServiceColumns) {
		return Service{}, fieldErrorf("app", "row has %d columns, want %d", len(row), len(ServiceColumns))
	}
	var p parser
	s := Service{App: p.key("app", row[0])}
	if err := p.err(); err != nil {
		return Service{}, err
	}
	s.Check = p.check("health_check", row[1])
	if n := p.integer("panic_threshold", row[2], 0, 0, 100); row[2] != nil && !p.failed("panic_threshold") {
		s.Panic = &n
	}
	if n := p.integer("soft_limit", row[3], 0, 0, MaxNumber); !p.failed("soft_limit") {
		s.SoftLimit = n
	}
	if n := p.integer("hard_limit", row[4], 0, 0, MaxNumber); !p.failed("hard_limit") {
		s.HardLimit = n
	}
	s.listening(&p, row)
	return s, p.err()
}

// check reads a column health_check; nil where nothing is said.
func (p *parser) check(field string, v any) *Check {
	s, ok := p.text(field, v)
	if p.failed(field) || !ok || s == "" {
		return nil
	}
	c, err := ParseCheck(s)
	if err != nil {
		p.fail(field, "%v", err)
		return nil
	}
	return &c
}

// Service finds the row of an app; the zero Service, of which nothing is said,
// where there is none.
func (s *Snapshot) Service(app string) Service {
	i, ok := slices.BinarySearchFunc(s.Services, app, func(v Service, app string) int { return cmp.Compare(v.App, app) })
	if !ok {
		return Service{App: app}
	}
	return s.Services[i]
}

// services reads the rows, of two with one name the first.
func (s *Snapshot) services(rows [][]any) {
	for i, row := range rows {
		v, err := ParseService(row)
		s.skipPart("services", rowName(row, i), v.App != "", err)
		if v.App != "" {
			s.Services = append(s.Services, v)
		}
	}
	slices.SortStableFunc(s.Services, func(a, b Service) int { return cmp.Compare(a.App, b.App) })
	s.Services = slices.CompactFunc(s.Services, func(a, b Service) bool {
		if a.App == b.App {
			s.skip("services", b.App, &FieldError{Field: "app", Message: errTwice.Message})
		}
		return a.App == b.App
	})
}
