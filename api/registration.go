package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"unicode"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// Registry takes backends that announce themselves. Implementations are safe
// for concurrent use. What makes no sense is refused with a *mesh.FieldError
// whose field is the one of the request, or the column.
type Registry interface {
	// Register makes the backend, or changes what the registration names of it.
	// ErrExists: it is there, and nobody has registered it.
	Register(ctx context.Context, set Registration) (Backend, error)
	// Heartbeat says that it lives. ErrNotFound: it has to be registered (anew).
	Heartbeat(ctx context.Context, id string, beat Heartbeat) (Heartbeat, error)
	// Unregister removes it where it registered itself, at this address (the zero
	// value: any). ErrNotFound; ErrConflict: it is another's, or an operator's.
	Unregister(ctx context.Context, id string, at netip.AddrPort) error
}

// Registration is the body of POST /api/v1/register; nil leaves a field as it
// is, or at its default in a new row. The address is given as ip and port, or
// as addr.
type Registration struct {
	ID        *string `json:"id,omitempty"`
	App       *string `json:"app,omitempty"`
	Region    *string `json:"region,omitempty"`
	IP        *string `json:"ip,omitempty"`
	Port      *int64  `json:"port,omitempty"`
	Addr      *string `json:"addr,omitempty"`
	Country   *string `json:"country,omitempty"`
	Weight    *int64  `json:"weight,omitempty"`
	SoftLimit *int64  `json:"soft_limit,omitempty"`
	HardLimit *int64  `json:"hard_limit,omitempty"`

	HealthCheck   *string `json:"health_check,omitempty"`   // empty: its service's
	ProxyProtocol *string `json:"proxy_protocol,omitempty"` // off, v1 or v2; empty: its service's

	Failing string `json:"failing,omitempty"` // why it takes no connections yet; empty: it does
}

// Columns translates the fields that are set into columns of the tables
// backends and backend_options. The error is a *mesh.FieldError.
func (r Registration) Columns() (backend, options map[string]any, err error) {
	backend, options, err = Patch{
		App: r.App, Region: r.Region, IP: r.IP, Port: r.Port, Addr: r.Addr, Country: r.Country,
		Weight: r.Weight, SoftLimit: r.SoftLimit, HardLimit: r.HardLimit, HealthCheck: r.HealthCheck, ProxyProtocol: r.ProxyProtocol,
	}.Columns()
	if err != nil {
		return nil, nil, err
	}
	for name, v := range map[string]*string{"health_check": r.HealthCheck, "proxy_protocol": r.ProxyProtocol} {
		if v != nil && *v == "" {
			options[name] = nil
		}
	}
	return backend, options, nil
}

// Heartbeat is the body of POST /api/v1/heartbeat/{id}, which may be left out,
// and of its answer.
type Heartbeat struct {
	Failing string `json:"failing,omitempty"`  // why it takes no connections now; empty: it does
	TTL     int64  `json:"ttl_secs,omitempty"` // in the answer: without another heartbeat for so long it is out of routing
}

const maxBeat = 4 << 10 // bytes of a heartbeat's body

// PlainReason makes one short line of what an agent gives as a reason: it
// stands in every POP's database and in front of people.
func PlainReason(text string) string {
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "\uFFFD"), func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }), " ")
	return mesh.Shorten(text, mesh.MaxFailing)
}

func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	set, err := decode[Registration](http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil && set.ID == nil {
		err = &mesh.FieldError{Field: "id", Message: "is missing; name the backend"}
	}
	if err != nil {
		s.answer(w, 0, nil, err)
		return
	}
	set.Failing = PlainReason(set.Failing)
	b, err := s.cfg.Registry.Register(r.Context(), set)
	if err == nil {
		s.log.Info().Str("backend", b.ID).Str("addr", b.Addr).Str("app", b.App).Msg("backend registered itself")
	}
	s.answer(w, http.StatusCreated, b, Patch{Addr: set.Addr, IP: set.IP, Port: set.Port}.asGiven(err, true))
}

func (s *Server) heartbeat(w http.ResponseWriter, r *http.Request) {
	beat, err := decodeBeat(http.MaxBytesReader(w, r.Body, maxBeat))
	if err == nil {
		beat, err = s.cfg.Registry.Heartbeat(r.Context(), r.PathValue("id"), beat)
	}
	s.answer(w, http.StatusOK, beat, err)
}

// unregister answers a DELETE that is meant for a registration alone.
func (s *Server) unregister(ctx context.Context, id string, query url.Values) error {
	if only := query.Get("registered"); only != "true" {
		return &mesh.FieldError{Field: "registered", Message: fmt.Sprintf("is %q: true or nothing", only)}
	}
	var at netip.AddrPort
	if addr := query.Get("addr"); addr != "" {
		var err error
		if at, err = netip.ParseAddrPort(addr); err != nil {
			return &mesh.FieldError{Field: "addr", Message: fmt.Sprintf("%q is no ip:port", addr)}
		}
	}
	return s.cfg.Registry.Unregister(ctx, id, at)
}

// decodeBeat reads a heartbeat's body, which is empty in most.
func decodeBeat(body io.Reader) (beat Heartbeat, err error) {
	text, err := io.ReadAll(body)
	if errors.As(err, new(*http.MaxBytesError)) {
		err = fmt.Errorf("%w longer than %d bytes: %w", errBody, maxBeat, err)
	}
	if err == nil && strings.TrimSpace(string(text)) != "" {
		beat, err = decode[Heartbeat](strings.NewReader(string(text)))
	}
	beat.Failing, beat.TTL = PlainReason(beat.Failing), 0
	return beat, err
}

// ErrToken is what every error wraps that says that the token is missing or wrong.
var ErrToken = errors.New("token refused")

// Register implements Registry.
func (c *Client) Register(ctx context.Context, set Registration) (Backend, error) {
	return call[Backend](ctx, c, http.MethodPost, "/api/v1/register", nil, set)
}

// Heartbeat implements Registry.
func (c *Client) Heartbeat(ctx context.Context, id string, beat Heartbeat) (Heartbeat, error) {
	path, err := namedPath("heartbeat", "id", id)
	if err != nil {
		return Heartbeat{}, err
	}
	return call[Heartbeat](ctx, c, http.MethodPost, path, nil, beat)
}

// Unregister implements Registry.
func (c *Client) Unregister(ctx context.Context, id string, at netip.AddrPort) error {
	path, err := namedPath("backends", "id", id)
	if err != nil {
		return err
	}
	query := url.Values{"registered": {"true"}}
	if at.IsValid() {
		query.Set("addr", at.String())
	}
	_, err = call[struct{}](ctx, c, http.MethodDelete, path, query, nil)
	return err
}
