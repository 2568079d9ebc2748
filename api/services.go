package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// Services is what the API and the command line do with the table services.
type Services interface {
	Services(ctx context.Context) ([]Service, error)
	SetService(ctx context.Context, app string, set ServicePatch) (Service, error) // made where there is none
	DeleteService(ctx context.Context, app string) error                           // ErrNotFound
}

// Service is one app: where every POP listens for it, and what holds for all of
// its backends that do not say otherwise.
type Service struct {
	App            string `json:"app"`
	HealthCheck    string `json:"health_check"`    // empty: the POP's default
	PanicThreshold *int64 `json:"panic_threshold"` // percent; null: the POP's default
	SoftLimit      int64  `json:"soft_limit"`      // of backends whose own is NULL; 0: nothing is said
	HardLimit      int64  `json:"hard_limit"`      // the same
	Backends       int    `json:"backends"`        // in the table
	Up             int    `json:"up"`              // that take new connections

	Listen         []string     `json:"listen"` // addresses; empty: no listener of its own
	Mode           string       `json:"mode"`   // tcp, tls-passthrough or tls-terminate
	SNI            []string     `json:"sni"`
	ALPN           []string     `json:"alpn"`
	AffinityTTL    *int64       `json:"affinity_ttl"`       // seconds; null: the POP's default
	ProxyProtocol  string       `json:"proxy_protocol"`     // off, v1 or v2, what its backends are sent
	ConnectTimeout int64        `json:"connect_timeout_ms"` // 0: the POP's default
	IdleTimeout    int64        `json:"idle_timeout_secs"`  // 0: the POP's default
	MaxConnections int64        `json:"max_connections"`    // through one POP; 0: no bound
	Connections    int64        `json:"connections"`        // open through this POP's listeners for it
	Faults         []mesh.Fault `json:"faults,omitempty"`   // POPs that cannot listen for it
}

// ServicePatch is the fields of a service that somebody sets; nil leaves a field
// as it is. An empty text, a threshold or TTL of -1 and any other number of 0
// take back what was said.
type ServicePatch struct {
	HealthCheck    *string `json:"health_check,omitempty"`
	PanicThreshold *int64  `json:"panic_threshold,omitempty"`
	SoftLimit      *int64  `json:"soft_limit,omitempty"`
	HardLimit      *int64  `json:"hard_limit,omitempty"`

	Listen         *string `json:"listen,omitempty"` // separated by commas, as the next two
	Mode           *string `json:"mode,omitempty"`
	SNI            *string `json:"sni,omitempty"`
	ALPN           *string `json:"alpn,omitempty"`
	AffinityTTL    *int64  `json:"affinity_ttl,omitempty"`
	ProxyProtocol  *string `json:"proxy_protocol,omitempty"`
	ConnectTimeout *int64  `json:"connect_timeout_ms,omitempty"`
	IdleTimeout    *int64  `json:"idle_timeout_secs,omitempty"`
	MaxConnections *int64  `json:"max_connections,omitempty"`

	// New refuses an app of which there is a row already. Not a field of a row.
	New bool `json:"new,omitempty"`
}

// Columns translates the fields that are set into columns of the table services.
func (p ServicePatch) Columns() map[string]any {
	set := map[string]any{}
	for name, v := range map[string]*string{
		"health_check": p.HealthCheck, "listen": p.Listen, "mode": p.Mode, "sni": p.SNI, "alpn": p.ALPN, "proxy_protocol": p.ProxyProtocol,
	} {
		if v != nil && *v == "" {
			set[name] = nil
		} else {
			put(set, name, v)
		}
	}
	number := func(name string, v *int64, nothing int64) {
		if v != nil && *v == nothing {
			set[name] = nil
		} else {
			put(set, name, v)
		}
	}
	number("panic_threshold", p.PanicThreshold, -1)
	number("affinity_ttl", p.AffinityTTL, -1)
	number("soft_limit", p.SoftLimit, 0)
	number("hard_limit", p.HardLimit, 0)
	number("connect_timeout_ms", p.ConnectTimeout, 0)
	number("idle_timeout_secs", p.IdleTimeout, 0)
	number("max_connections", p.MaxConnections, 0)
	return set
}

// NotFound is an error that is ErrNotFound, of a thing of that kind.
func NotFound(kind, name string) error {
	return remoteError{ErrNotFound, "no such " + kind + ": " + name}
}

// Exists is an error that is ErrExists, of something else than a backend.
func Exists(kind, name string) error {
	return remoteError{ErrExists, kind + " " + name + " exists: change it, or remove it first"}
}

type serviceList struct {
	Services []Service `json:"services"`
}

func (s *Server) services(w http.ResponseWriter, r *http.Request) {
	all, err := s.pop.Services(r.Context())
	s.answer(w, http.StatusOK, serviceList{orEmpty(all)}, err)
}

func (s *Server) service(w http.ResponseWriter, r *http.Request) {
	app := r.PathValue("app")
	all, err := s.pop.Services(r.Context())
	i := slices.IndexFunc(all, func(v Service) bool { return v.App == app })
	switch {
	case err == nil && i < 0:
		s.answer(w, 0, nil, NotFound("service", app))
	case err != nil:
		s.answer(w, 0, nil, err)
	default:
		s.answer(w, http.StatusOK, all[i], nil)
	}
}

func (s *Server) setService(w http.ResponseWriter, r *http.Request) {
	set, err := decode[ServicePatch](http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		s.answer(w, 0, nil, err)
		return
	}
	v, err := s.pop.SetService(r.Context(), r.PathValue("app"), set)
	if err == nil {
		s.log.Info().Str("app", v.App).Msg("service changed by API")
	}
	s.answer(w, http.StatusOK, v, err)
}

func (s *Server) deleteService(w http.ResponseWriter, r *http.Request) {
	app := r.PathValue("app")
	if err := s.pop.DeleteService(r.Context(), app); err != nil {
		s.answer(w, 0, nil, err)
		return
	}
	s.log.Info().Str("app", app).Msg("service removed by API")
	w.WriteHeader(http.StatusNoContent)
}

// Services implements POP.
func (c *Client) Services(ctx context.Context) ([]Service, error) {
	l, err := call[serviceList](ctx, c, http.MethodGet, "/api/v1/services", nil, nil)
	return orEmpty(l.Services), err
}

// SetService implements POP.
func (c *Client) SetService(ctx context.Context, app string, set ServicePatch) (Service, error) {
	path, err := namedPath("services", "app", app)
	if err != nil {
		return Service{}, err
	}
	return call[Service](ctx, c, http.MethodPatch, path, nil, set)
}

// DeleteService implements POP.
func (c *Client) DeleteService(ctx context.Context, app string) error {
	path, err := namedPath("services", "app", app)
	if err != nil {
		return err
	}
	_, err = call[struct{}](ctx, c, http.MethodDelete, path, nil, nil)
	return err
}

// namedPath escapes a name, which may hold slashes. Two names that a table
// may hold make another path of it, however escaped: servers clean paths.
func namedPath(kind, field, name string) (string, error) {
	if name == "" {
		return "", &mesh.FieldError{Field: field, Message: "is empty; it must have a name"}
	}
	if name == "." || name == ".." {
		return "", &mesh.FieldError{Field: field, Message: `"` + name + `" cannot be part of a URL: work on the database file itself`}
	}
	return "/api/v1/" + kind + "/" + url.PathEscape(name), nil
}
