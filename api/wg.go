package api

import (
	"context"
	"net/http"
	"time"
)

// Overlay is what the API and the command line do with the WireGuard overlay.
type Overlay interface {
	WG(ctx context.Context) (WG, error)
	ExportWG(ctx context.Context, name string) (WGFile, error) // ErrNotFound
	RotateWG(ctx context.Context) (WGRotation, error)          // ErrConflict where the overlay is off; returns when the new key is in use
	AddWGPeer(ctx context.Context, p WGPeer) (WGPeer, error)   // ErrConflict
	WGPeers(ctx context.Context) ([]WGPeer, error)
	RemoveWGPeer(ctx context.Context, name string) error // ErrNotFound
}

// WG is a POP's part of the overlay. Mode is kernel, tun or netstack, off where
// it is not asked for, and empty while it does not work, which Error explains.
type WG struct {
	Mode      string         `json:"mode"`
	Interface string         `json:"interface,omitempty"`
	Port      uint16         `json:"port,omitempty"`
	PublicKey string         `json:"public_key,omitempty"`
	NextKey   string         `json:"next_key,omitempty"` // to which it is changing
	Addresses []string       `json:"addresses"`
	Topology  string         `json:"topology,omitempty"`
	Hub       bool           `json:"hub"`
	Error     string         `json:"error,omitempty"`
	Problems  []string       `json:"problems"` // claims that do not hold, and other POPs that plan otherwise
	Peers     []WGPeerStatus `json:"peers"`
}

// WGPeerStatus is a tunnel as "wg show" has it, and what is known beside it.
// Of a POP that changes its key there are two.
type WGPeerStatus struct {
	Name       string    `json:"name"`
	Kind       string    `json:"kind"` // pop or peer
	Region     string    `json:"region"`
	PublicKey  string    `json:"public_key"`
	Endpoint   string    `json:"endpoint,omitempty"`
	AllowedIPs []string  `json:"allowed_ips"`
	Handshake  time.Time `json:"latest_handshake,omitzero"`
	Received   int64     `json:"received"` // bytes
	Sent       int64     `json:"sent"`
	Loss       *float64  `json:"loss"`   // share of the last echo requests that had no answer; null: none was sent yet
	RTT        *float64  `json:"rtt_ms"` // of the last that had one
}

// WGPeer is a plain WireGuard device. When one is added, what is empty of
// Address and Address6 is chosen, and PublicKey must be given.
type WGPeer struct {
	Name      string   `json:"name"`
	Region    string   `json:"region"`
	PublicKey string   `json:"public_key"`
	Address   string   `json:"address,omitempty"`
	Address6  string   `json:"address6,omitempty"`
	Endpoint  string   `json:"endpoint,omitempty"` // ip:port; empty: it comes by itself
	Via       []string `json:"via,omitempty"`      // POPs that have a tunnel with it; none: all
	Routes    []string `json:"routes,omitempty"`   // networks behind it
}

// WGFile is a file for wg-quick, without the private key.
type WGFile struct {
	Name string `json:"name"`
	File string `json:"file"`
}

// WGRotation is a change of a POP's key.
type WGRotation struct {
	Old string `json:"old"`
	New string `json:"new"`
	// Peers are the plain devices that hear this POP no more until they get a new file.
	Peers []string `json:"peers"`
}

func (s *Server) wg(w http.ResponseWriter, r *http.Request) {
	v, err := s.cfg.Mesh.WG(r.Context())
	s.answer(w, http.StatusOK, v, err)
}

func (s *Server) exportWG(w http.ResponseWriter, r *http.Request) {
	v, err := s.cfg.Mesh.ExportWG(r.Context(), r.PathValue("name"))
	s.answer(w, http.StatusOK, v, err)
}

func (s *Server) rotateWG(w http.ResponseWriter, r *http.Request) {
	v, err := s.cfg.Mesh.RotateWG(r.Context())
	s.answer(w, http.StatusOK, v, err)
}

func (s *Server) wgPeers(w http.ResponseWriter, r *http.Request) {
	all, err := s.cfg.Mesh.WGPeers(r.Context())
	s.answer(w, http.StatusOK, orEmpty(all), err)
}

func (s *Server) addWGPeer(w http.ResponseWriter, r *http.Request) {
	p, err := decode[WGPeer](http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		p, err = s.cfg.Mesh.AddWGPeer(r.Context(), p)
	}
	s.answer(w, http.StatusCreated, p, err)
}

func (s *Server) removeWGPeer(w http.ResponseWriter, r *http.Request) {
	s.done(w, s.cfg.Mesh.RemoveWGPeer(r.Context(), r.PathValue("name")))
}

// WG implements Overlay.
func (c *Client) WG(ctx context.Context) (WG, error) {
	return call[WG](ctx, c, http.MethodGet, "/api/v1/wg", nil, nil)
}

// ExportWG implements Overlay.
func (c *Client) ExportWG(ctx context.Context, name string) (WGFile, error) {
	path, err := namedPath("wg/files", "name", name)
	if err != nil {
		return WGFile{}, err
	}
	return call[WGFile](ctx, c, http.MethodGet, path, nil, nil)
}

// RotateWG implements Overlay.
func (c *Client) RotateWG(ctx context.Context) (WGRotation, error) {
	return call[WGRotation](ctx, c, http.MethodPost, "/api/v1/wg/rotate", nil, nil)
}

// WGPeers implements Overlay.
func (c *Client) WGPeers(ctx context.Context) ([]WGPeer, error) {
	all, err := call[[]WGPeer](ctx, c, http.MethodGet, "/api/v1/wg/peers", nil, nil)
	return orEmpty(all), err
}

// AddWGPeer implements Overlay.
func (c *Client) AddWGPeer(ctx context.Context, p WGPeer) (WGPeer, error) {
	return call[WGPeer](ctx, c, http.MethodPost, "/api/v1/wg/peers", nil, p)
}

// RemoveWGPeer implements Overlay.
func (c *Client) RemoveWGPeer(ctx context.Context, name string) error {
	path, err := namedPath("wg/peers", "name", name)
	if err != nil {
		return err
	}
	_, err = call[struct{}](ctx, c, http.MethodDelete, path, nil, nil)
	return err
}
