package node

import (
	"github.com/prometheus/client_golang/prometheus"
)

var (
	descWGUp        = desc("wg_up", "1 while the overlay works as planned; no sample where it is off.", "mode")
	descWGProblems  = desc("wg_problems", "Claims of other POPs and plain devices in the overlay that do not hold.")
	descWGHandshake = desc("wg_last_handshake_timestamp_seconds", "When the last handshake with the peer was.", "peer", "kind")
	descWGBytes     = desc("wg_bytes_total", "Bytes through the tunnel, by direction seen from here.", "peer", "kind", "direction")
	descWGLoss      = desc("wg_echo_loss_ratio", "Share of the last 32 echo requests through the tunnel that had no answer.", "peer", "kind")
	descWGRTT       = desc("wg_echo_seconds", "Round trip of the last echo request that had an answer.", "peer", "kind")
)

// overlay reports this POP's tunnels.
func (c *collector) overlay(gauge, counter func(*prometheus.Desc, float64, ...string)) {
	v, err := c.n.overlay.view()
	if v.Mode == "off" {
		return
	}
	gauge(descWGUp, truth(err == nil && v.Error == "" && v.Mode != ""), v.Mode)
	gauge(descWGProblems, float64(len(v.Problems)))
	for _, p := range v.Peers {
		if len(p.AllowedIPs) == 0 {
			continue // a key that a POP has had, or will have: the tunnel is the other one
		}
		if !p.Handshake.IsZero() {
			gauge(descWGHandshake, float64(p.Handshake.Unix()), p.Name, p.Kind)
		}
		counter(descWGBytes, float64(p.Received), p.Name, p.Kind, "in")
		counter(descWGBytes, float64(p.Sent), p.Name, p.Kind, "out")
		if p.Loss != nil {
			gauge(descWGLoss, *p.Loss, p.Name, p.Kind)
		}
		if p.RTT != nil {
			gauge(descWGRTT, *p.RTT/1e3, p.Name, p.Kind)
		}
	}
}
