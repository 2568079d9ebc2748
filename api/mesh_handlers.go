package api

import (
	"net/http"
)

func (s *Server) load(w http.ResponseWriter, r *http.Request) {
	l, err := s.cfg.Mesh.Load(r.Context())
	s.answer(w, http.StatusOK, l, err)
}

func (s *Server) members(w http.ResponseWriter, r *http.Request) {
	all, err := s.cfg.Mesh.Members(r.Context())
	s.answer(w, http.StatusOK, orEmpty(all), err)
}

func (s *Server) forget(w http.ResponseWriter, r *http.Request) {
	s.done(w, s.cfg.Mesh.Forget(r.Context(), r.PathValue("node")))
}

func (s *Server) leave(w http.ResponseWriter, r *http.Request) {
	s.done(w, s.cfg.Mesh.Leave(r.Context()))
}

func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	up, err := s.cfg.Mesh.Upgrade(r.Context())
	s.answer(w, http.StatusAccepted, up, err)
}

func (s *Server) keys(w http.ResponseWriter, r *http.Request) {
	all, err := s.cfg.Mesh.Keys(r.Context())
	s.answer(w, http.StatusOK, orEmpty(all), err)
}

// newKey is the body of POST /api/v1/keys.
type newKey struct {
	Key string `json:"key"`
}

func (s *Server) addKey(w http.ResponseWriter, r *http.Request) {
	body, err := decode[newKey](http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		s.answer(w, 0, nil, err)
		return
	}
	key, err := s.cfg.Mesh.AddKey(r.Context(), body.Key)
	s.answer(w, http.StatusCreated, key, err)
}

func (s *Server) useKey(w http.ResponseWriter, r *http.Request) {
	s.done(w, s.cfg.Mesh.UseKey(r.Context(), r.PathValue("id"), r.FormValue("force") == "true"))
}

func (s *Server) removeKey(w http.ResponseWriter, r *http.Request) {
	s.done(w, s.cfg.Mesh.RemoveKey(r.Context(), r.PathValue("id"), r.FormValue("force") == "true"))
}

func (s *Server) quarantine(w http.ResponseWriter, r *http.Request) {
	all, err := s.cfg.Mesh.Quarantine(r.Context())
	s.answer(w, http.StatusOK, orEmpty(all), err)
}

// oneRow is the body of a request about one record; a row's name may hold
// what a path cannot.
type oneRow struct {
	Row string `json:"row"`
}

func (s *Server) release(w http.ResponseWriter, r *http.Request) {
	body, err := decode[oneRow](http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = s.cfg.Mesh.Release(r.Context(), body.Row)
	}
	s.done(w, err)
}

func (s *Server) drop(w http.ResponseWriter, r *http.Request) {
	body, err := decode[oneRow](http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = s.cfg.Mesh.Drop(r.Context(), body.Row)
	}
	s.done(w, err)
}

// backup streams the copy. What fails once it has begun cuts the connection,
// so that nobody takes a part for the whole.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) {
	begun := &firstWrite{ResponseWriter: w}
	err := s.cfg.Mesh.Backup(r.Context(), begun)
	if err != nil && !begun.written {
		s.answer(w, 0, nil, err)
	} else if err != nil {
		s.log.Warn().Err(err).Msg("backup cut short")
		panic(http.ErrAbortHandler)
	}
}

type firstWrite struct {
	http.ResponseWriter
	written bool
}

func (f *firstWrite) Write(b []byte) (int, error) {
	if !f.written {
		f.written = true
		f.Header().Set("Content-Type", "application/vnd.sqlite3")
		f.Header().Set("Cache-Control", "no-store")
	}
	return f.ResponseWriter.Write(b)
}

// done replies 204, or with what err means.
func (s *Server) done(w http.ResponseWriter, err error) {
	if err != nil {
		s.answer(w, 0, nil, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
