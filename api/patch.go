package api

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// Columns translates the fields that are set into columns of the tables
// backends and backend_options. The error is a *mesh.FieldError.
func (p Patch) Columns() (backend, options map[string]any, err error) {
	backend, options = map[string]any{}, map[string]any{}
	put(backend, "app", p.App)
	put(backend, "region", p.Region)
	put(backend, "wg_ip", p.IP)
	put(backend, "port", p.Port)
	put(backend, "weight", p.Weight)
	put(backend, "soft_limit", p.SoftLimit)
	put(backend, "hard_limit", p.HardLimit)
	putBool(backend, "healthy", p.Healthy)
	putBool(backend, "deleted", p.Deleted)
	putBool(options, "draining", p.Draining)
	put(options, "country", p.Country)
	put(options, "health_check", p.HealthCheck)
	put(options, "proxy_protocol", p.ProxyProtocol)
	if p.Addr != nil {
		a, err := netip.ParseAddrPort(strings.TrimSpace(*p.Addr))
		if err != nil {
			return nil, nil, &mesh.FieldError{Field: "addr", Message: fmt.Sprintf("%.80q is not ip:port, such as 10.50.1.1:8080 or [fd00::1]:8080", *p.Addr)}
		}
		if p.IP != nil || p.Port != nil {
			return nil, nil, &mesh.FieldError{Field: "addr", Message: "give addr, or ip and port, not both"}
		}
		backend["wg_ip"], backend["port"] = a.Addr().String(), int64(a.Port())
	}
	return backend, options, nil
}

// asGiven says an error about the columns of the address with the field that
// the request gave it by.
func (p Patch) asGiven(err error, isNew bool) error {
	fe, ok := errors.AsType[*mesh.FieldError](err)
	if !ok || fe.Field != "wg_ip" && fe.Field != "ip" && fe.Field != "port" {
		return err
	}
	switch {
	case p.Addr != nil:
		return &mesh.FieldError{Field: "addr", Message: fe.Message}
	case fe.Field == "port" || fe.Field == "ip": // of an address that is given, or stands in the row already
		return fe
	case p.IP == nil && p.Port == nil && isNew:
		return &mesh.FieldError{Field: "addr", Message: "is missing; give ip:port, such as 10.50.1.1:8080, or ip and port"}
	case p.IP == nil && isNew:
		return &mesh.FieldError{Field: "ip", Message: "is missing; give the backend's IP address, such as 10.50.1.1"}
	}
	return &mesh.FieldError{Field: "ip", Message: fe.Message}
}

// NewBackend adds to the columns of a new row what is not set: the documented
// defaults, written out so that the row says what holds, but for limits that the
// app's service says. Options that an older row of the same id left behind, such
// as draining, do not hold for the new one.
func NewBackend(set, options map[string]any, service mesh.Service) (all, allOptions map[string]any) {
	all = map[string]any{"app": "", "healthy": int64(1), "weight": int64(1), "soft_limit": int64(100), "hard_limit": int64(0), "deleted": int64(0)}
	if service.SoftLimit > 0 {
		all["soft_limit"] = nil
	}
	if service.HardLimit > 0 {
		all["hard_limit"] = nil
	}
	maps.Copy(all, set)
	allOptions = map[string]any{"draining": int64(0), "country": nil, "health_check": nil, "proxy_protocol": nil}
	maps.Copy(allOptions, options)
	return all, allOptions
}

func put[T any](columns map[string]any, name string, v *T) {
	if v != nil {
		columns[name] = *v
	}
}

// putBool writes a truth as SQLite has it, 0 or 1.
func putBool(columns map[string]any, name string, v *bool) {
	if v == nil {
		return
	}
	columns[name] = int64(0)
	if *v {
		columns[name] = int64(1)
	}
}
