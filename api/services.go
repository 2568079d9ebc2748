package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// Services is what the API and the command line do with the table services.
type Services interface {
	Services(ctx context.Context) ([]Service, error)
	SetService(ctx context.Context, app string, set ServicePatch) (Service, error) // made where there is none
	DeleteService(ctx context.Context, app string) error                           // ErrNotFound
}

// Service is what holds for all backends of an app that do not say otherwise.
type Service struct {
	App            string `json:"app"`
	HealthCheck    string `json:"health_check"`    // empty: the POP's default
	PanicThreshold *int64 `json:"panic_threshold"` // percent; null: the POP's default
	SoftLimit      int64  `json:"soft_limit"`      // of backends whose own is NULL; 0: nothing is said
	HardLimit      int64  `json:"hard_limit"`      // the same
	Backends       int    `json:"backends"`        // in the table
	Up             int    `json:"up"`              // that take new connections
}

// ServicePatch is the fields of a service that somebody sets; nil leaves a field
// as it is. An empty check, a threshold of -1 and a limit of 0 take back what was said.
type ServicePatch struct {
	HealthCheck    *string `json:"health_check,omitempty"`
	PanicThreshold *int64  `json:"panic_threshold,omitempty"`
	SoftLimit      *int64  `json:"soft_limit,omitempty"`
	HardLimit      *int64  `json:"hard_limit,omitempty"`
}

// Columns translates the fields that are set into columns of the table services.
func (p ServicePatch) Columns() map[string]any {
	set := map[string]any{}
	put(set, "health_check", p.HealthCheck)
	put(set, "panic_threshold", p.PanicThreshold)
	put(set, "soft_limit", p.SoftLimit)
	put(set, "hard_limit", p.HardLimit)
	if v := p.HealthCheck; v != nil && *v == "" {
		set["health_check"] = nil
	}
	for name, v := range map[string]*int64{"soft_limit": p.SoftLimit, "hard_limit": p.HardLimit} {
		if v != nil && *v == 0 {
			set[name] = nil
		}
	}
	if v := p.PanicThreshold; v != nil && *v == -1 {
		set["panic_threshold"] = nil
	}
	return set
}

// NotFound is an error that is ErrNotFound, of something else than a backend.
func NotFound(kind, name string) error {
	return remoteError{ErrNotFound, "no such " + kind + ": " + name}
}

type serviceList struct {
	Services []Service `json:"services"`
}

func (s *Server) services(w http.ResponseWriter, r *http.Request) {
	all, err := s.pop.Services(r.Context())
	s.answer(w, http.StatusOK, serviceList{orEmpty(all)}, err)
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

// namedPath escapes a name, which may hold slashes. Three names that a table
// may hold make another path of it, however escaped: servers clean paths.
func namedPath(kind, field, name string) (string, error) {
	if name == "" || name == "." || name == ".." {
		return "", &mesh.FieldError{Field: field, Message: `"` + name + `" cannot be part of a URL: work on the database file itself`}
	}
	return "/api/v1/" + kind + "/" + url.PathEscape(name), nil
}
