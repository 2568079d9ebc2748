package mesh

import (
	"cmp"
	"slices"
)

// ServiceColumns are the columns of the table services that ParseService reads.
var ServiceColumns = [...]string{"app", "health_check", "panic_threshold", "soft_limit", "hard_limit"}

// Service is what holds for all backends of one app that do not say otherwise:
// one row of the table services.
type Service struct {
	App       string
	Check     *Check // nil: the POP's default
	Panic     *int64 // percent of the backends that must be up, or checks are not believed; nil: the POP's default
	SoftLimit int64  // of backends whose own is NULL; 0: nothing is said
	HardLimit int64  // the same
}

// ParseService reads a row whose values stand in the order of ServiceColumns.
// NULL means the default. Beside a column that makes no sense the others still
// count: a misspelt check must not lift a limit. The error is a *FieldError.
func ParseService(row []any) (Service, error) {
	if len(row) != len(ServiceColumns) {
		return Service{}, fieldErrorf("app", "row has %d columns, want %d", len(row), len(ServiceColumns))
	}
	var name, check, panicAt, soft, hard parser
	s := Service{App: name.name("app", row[0], true)}
	if name.err != nil {
		return Service{}, name.err
	}
	s.Check = check.check("health_check", row[1])
	if n := panicAt.integer("panic_threshold", row[2], 0, 0, 100); row[2] != nil && panicAt.err == nil {
		s.Panic = &n
	}
	if n := soft.integer("soft_limit", row[3], 0, 0, MaxNumber); soft.err == nil {
		s.SoftLimit = n
	}
	if n := hard.integer("hard_limit", row[4], 0, 0, MaxNumber); hard.err == nil {
		s.HardLimit = n
	}
	return s, cmp.Or(check.err, panicAt.err, soft.err, hard.err)
}

// check reads a column health_check; nil where nothing is said.
func (p *parser) check(field string, v any) *Check {
	s, ok := p.text(field, v)
	if p.err != nil || !ok || s == "" {
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
		if err != nil {
			s.skip("services", rowName(row, i), err)
		}
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
