package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/edgeproxy/edgeproxy/mesh"
)

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	reasons := s.cfg.Ready()
	code := http.StatusOK
	if len(reasons) > 0 {
		code = http.StatusServiceUnavailable
	}
	reply(w, code, Readiness{Ready: len(reasons) == 0, Reasons: append([]string{}, reasons...)})
}

// Readiness is the answer to GET /ready.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"`
}

// list leaves out the backends of other apps and regions where one is asked for.
func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	query, err := parameters(r, "app", "region")
	if err != nil {
		s.answer(w, 0, nil, err)
		return
	}
	l, err := s.pop.Backends(r.Context())
	if app, region := query.Get("app"), query.Get("region"); app != "" || region != "" {
		l.Backends = slices.DeleteFunc(slices.Clone(l.Backends), func(b Backend) bool {
			return app != "" && b.App != app || region != "" && !strings.EqualFold(b.Region, region)
		})
		l.Backends, l.Total = orEmpty(l.Backends), len(l.Backends)
	}
	s.answer(w, http.StatusOK, l, err)
}

// parameters reads those of the URL. One that nobody knows is named, for it
// would let everything through in silence.
func parameters(r *http.Request, known ...string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, &mesh.FieldError{Message: "the parameters of the URL: " + err.Error()}
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains(known, name) {
			return nil, &mesh.FieldError{Field: name, Message: "unknown parameter; want " + cmp.Or(strings.Join(known, ", "), "none")}
		}
	}
	return query, nil
}

func (s *Server) get(w http.ResponseWriter, r *http.Request) {
	b, err := s.pop.Backend(r.Context(), r.PathValue("id"))
	s.answer(w, http.StatusOK, b, err)
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	set, err := decode[Patch](http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		s.answer(w, 0, nil, err)
		return
	}
	b, err := s.pop.CreateBackend(r.Context(), set)
	if err == nil {
		s.log.Info().Str("backend", b.ID).Msg("backend created by API")
	}
	s.answer(w, http.StatusCreated, b, set.asGiven(err, true))
}

func (s *Server) update(w http.ResponseWriter, r *http.Request) {
	set, err := decode[Patch](http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil && set.ID != nil && *set.ID != r.PathValue("id") {
		err = &mesh.FieldError{Field: "id", Message: "cannot be changed: remove the backend and add it under the new id"}
	}
	if err != nil {
		s.answer(w, 0, nil, err)
		return
	}
	b, err := s.pop.UpdateBackend(r.Context(), r.PathValue("id"), set)
	if err == nil {
		s.log.Info().Str("backend", b.ID).Msg("backend changed by API")
	}
	s.answer(w, http.StatusOK, b, set.asGiven(err, false))
}

func (s *Server) delete(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	var err error
	if query := r.URL.Query(); query.Has("registered") || query.Has("addr") {
		err = s.unregister(r.Context(), id, query)
	} else {
		err = s.pop.DeleteBackend(r.Context(), id)
	}
	if err != nil {
		s.answer(w, 0, nil, err)
		return
	}
	s.log.Info().Str("backend", id).Msg("backend removed by API")
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	query, err := parameters(r, "client", "app")
	if err != nil {
		s.answer(w, 0, nil, err)
		return
	}
	client, err := netip.ParseAddr(strings.TrimSpace(query.Get("client")))
	if err != nil {
		fail(w, http.StatusBadRequest, "client", fmt.Sprintf("%q is not an IP address", query.Get("client")))
		return
	}
	e, err := s.pop.Explain(r.Context(), client, query.Get("app"))
	s.answer(w, http.StatusOK, e, err)
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	st, err := s.pop.Status(r.Context())
	s.answer(w, http.StatusOK, st, err)
}

// answer replies with v, or with what err means in HTTP.
func (s *Server) answer(w http.ResponseWriter, code int, v any, err error) {
	if err == nil {
		reply(w, code, v)
		return
	}
	if fe, ok := errors.AsType[*mesh.FieldError](err); ok {
		fail(w, http.StatusBadRequest, fe.Field, fe.Message)
		return
	}
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		code = http.StatusRequestEntityTooLarge
	case errors.Is(err, errBody):
		code = http.StatusBadRequest
	case errors.Is(err, ErrNotFound):
		code = http.StatusNotFound
	case errors.Is(err, ErrExists), errors.Is(err, ErrConflict):
		code = http.StatusConflict
	case errors.Is(err, ErrUnavailable):
		code = http.StatusServiceUnavailable
	default:
		code = http.StatusInternalServerError
		s.log.Error().Err(err).Msg("api request failed")
	}
	fail(w, code, "", err.Error())
}

var errBody = errors.New("request body")

// decode reads one JSON object; a field that nobody knows is named, for it is
// a typing error that would otherwise change nothing in silence.
func decode[T any](body io.Reader) (T, error) {
	var p T
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	err := d.Decode(&p)
	if err == nil {
		if _, rest := d.Token(); rest != io.EOF {
			err = errors.New("more than one JSON value")
		}
	}
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		what := fmt.Sprintf("is a JSON %s, want %s", te.Value, wanted(te.Type.Kind()))
		if te.Field == "" {
			return p, fmt.Errorf("%w %s", errBody, what)
		}
		return p, &mesh.FieldError{Field: te.Field, Message: what}
	}
	if err == io.EOF {
		return p, fmt.Errorf("%w is empty, want a JSON object", errBody)
	}
	if err != nil {
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return p, &mesh.FieldError{Field: strings.Trim(name, `"`), Message: "unknown field"}
		}
		if errors.As(err, new(*http.MaxBytesError)) {
			return p, fmt.Errorf("%w longer than %d bytes: %w", errBody, maxBody, err)
		}
		return p, fmt.Errorf("%w is not the JSON object expected: %w", errBody, err)
	}
	return p, nil
}

// wanted is a type of Go's as the documentation of the API has it.
func wanted(k reflect.Kind) string {
	switch k {
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

func reply(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		fail(w, http.StatusInternalServerError, "", err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	// An error is the client's, who has gone.
	_, _ = w.Write(append(body, '\n'))
}

// Error is the body of every answer that is not a success.
type Error struct {
	Error string `json:"error"`
	Field string `json:"field,omitempty"`
}

func fail(w http.ResponseWriter, code int, field, message string) {
	reply(w, code, Error{Error: message, Field: field})
}

// jsonErrors turns the plain text of a mux that finds no handler into our form.
func jsonErrors(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		rec := &plainRecorder{header: w.Header()}
		mux.ServeHTTP(rec, r)
		fail(w, rec.code, "", fmt.Sprintf("%s %s: %s", r.Method, r.URL.Path, strings.ToLower(strings.TrimSpace(rec.body.String()))))
	})
}

type plainRecorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (p *plainRecorder) Header() http.Header         { return p.header }
func (p *plainRecorder) WriteHeader(code int)        { p.code = code }
func (p *plainRecorder) Write(b []byte) (int, error) { return p.body.Write(b) }
