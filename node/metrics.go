package node

import (
	"net/http"
	"strconv"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics serves what this POP counts, in a registry of its own: several
// Nodes of one process do not share one.
func (n *Node) metrics() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &collector{n})
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorLog: promErrors{n}})
}

type promErrors struct{ n *Node }

func (p promErrors) Println(v ...any) { p.n.log.Error().Interface("err", v).Msg("metrics") }

// collector reads the counts when it is asked, so that counting stays an
// atomic add on the way of a connection.
type collector struct{ n *Node }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("edgeproxy_"+name, help, labels, nil)
}

var (
	descBuild    = desc("build_info", "Always 1; the labels say what runs.", "version", "node", "region", "sqlite_driver")
	descReady    = desc("ready", "1 while GET /ready answers 200.")
	descActive   = desc("connections", "Client connections open now.")
	descAccepted = desc("connections_accepted_total", "Client connections accepted.")
	descEnded    = desc("connections_ended_total", "Client connections ended, by how.", "end")
	descAccErr   = desc("accept_errors_total", "Errors from accept; each pauses accepting for a moment.")
	descAccPause = desc("accept_pauses_total", "Pauses because the maximum number of connections was open.")
	descRights   = desc("right_waits_total", "Connections that waited for a right to a backend, with strict limits.")
	descConnect  = desc("backend_connect_duration_seconds", "Time that successful connects to backends took.")
	descBindings = desc("bindings", "Clients bound to a backend, expired ones until the next sweep included.")
	descService  = desc("service_connections", "Client connections open now through this POP's listeners for the service.", "app")
	descCert     = desc("certificate_not_after_timestamp_seconds", "When the certificate ends.", "file")
	descCertBad  = desc("certificate_problems", "Files of certificates with which something is wrong; status says what.")
	descFault    = desc("listener_fault", "1 for each address at which a POP cannot serve a service as its row says, of all POPs that live.", "pop", "app", "listen")
	descProblems = desc("rows_left_out", "Rows of the routing database that make no sense, or of which a field makes none.", "table")
	descReads    = desc("database_reads_total", "Times the routing tables were read.")
	descWatchers = desc("watchers", "Streams of changes that somebody reads.")
	descGeo      = desc("geo_built_timestamp_seconds", "When the country database in use was built.", "source")
	descGeoOK    = desc("geo_reload_ok", "0 after a country file could not be taken into use.")

	descBConns   = desc("backend_connections", "Connections of this POP to the backend, those being dialed included.", "backend", "app", "region")
	descBMesh    = desc("backend_mesh_connections", "Connections of all POPs to the backend, those of others as last reported.", "backend", "app", "region")
	descBUp      = desc("backend_up", "1 if the backend takes new connections.", "backend", "app", "region")
	descBRights  = desc("backend_rights", "Rights of this POP to connections with the backend, with strict limits; home is the POP that grants them.", "backend", "home")
	descBPicks   = desc("backend_picks_total", "Times the backend was picked, by tier: 0 client's region, 1 the POP's own, 2 other.", "backend", "tier")
	descBFail    = desc("backend_connect_failures_total", "Connects to the backend that failed.", "backend")
	descBEject   = desc("backend_ejections_total", "Times the backend was ejected because connects to it failed.", "backend")
	descBVerdict = desc("backend_verdict", "What a POP's checks say of the backend, 1 up, 0 down.", "backend", "checker")
	descChecks   = desc("health_checks_total", "Checks that this POP made, by result.", "result")
	descBBytes   = desc("backend_bytes_total", "Bytes relayed: in to the backend, out from it.", "backend", "direction")
	descBRTT     = desc("backend_connect_seconds", "Successful connects to the backend and the time they took.", "backend")
	descBRTTLast = desc("backend_last_connect_seconds", "Time that the last successful connect to the backend took.", "backend")
)

// Describe implements prometheus.Collector; naming nothing makes it an
// unchecked collector, whose label values come and go with the backends.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	n := c.n
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge(descBuild, 1, n.opts.Version, n.life.Node, n.cfg.Region, sqlite.Driver)
	gauge(descReady, truth(len(n.notReady()) == 0))
	gauge(descBindings, float64(n.router.Bindings()))
	counter(descReads, float64(n.picture().readCount()))
	gauge(descWatchers, float64(n.watches.watchers()))
	gauge(descGeo, float64(n.geo.Info().Built.Unix()), n.geo.Info().Source)
	gauge(descGeoOK, truth(n.geo.Err() == nil))

	st := n.server.Metrics.Stats()
	gauge(descActive, float64(st.Active))
	counter(descAccepted, float64(st.Accepted))
	counter(descAccErr, float64(st.AcceptErrors))
	counter(descAccPause, float64(st.AcceptPauses))
	counter(descRights, float64(st.RightWaits))
	for how, count := range st.Ended {
		counter(descEnded, float64(count), how)
	}
	out <- histogram(descConnect, proxy.ConnectBounds[:], st.Connects[:], st.ConnectSum)

	left := map[string]int{sqlite.Backends.Name: 0, sqlite.BackendOptions.Name: 0, sqlite.Services.Name: 0, sqlite.Registrations.Name: 0}
	last := mesh.Problem{}
	for _, p := range n.router.Snapshot().Problems {
		if p.Table != last.Table || p.ID != last.ID { // else it is of the same row
			left[p.Table]++
		}
		last = p
	}
	for table, count := range left {
		gauge(descProblems, float64(count), table)
	}
	counter(descChecks, float64(n.vigil.checker.OK.Load()), "ok")
	counter(descChecks, float64(n.vigil.checker.Failed.Load()), "failed")
	for app, open := range n.server.ServiceConnections() {
		gauge(descService, float64(open), app)
	}
	if n.certs != nil {
		for _, c := range n.certs.Info() {
			gauge(descCert, float64(c.NotAfter.Unix()), c.File)
		}
		gauge(descCertBad, float64(len(n.certs.Problems())))
	}
	told := map[[3]string]bool{}
	for _, f := range n.faults() {
		if key := [3]string{f.POP, f.App, f.Listen}; !told[key] {
			told[key] = true
			gauge(descFault, 1, f.POP, f.App, f.Listen)
		}
	}
	c.backends(gauge, counter, out)
	c.registry(gauge, counter)
	c.overlay(gauge, counter)
	c.names(gauge, counter, out)
	if n.mesh() != nil {
		c.mesh(gauge, counter, out)
	}
}

func (c *collector) backends(gauge, counter func(*prometheus.Desc, float64, ...string), out chan<- prometheus.Metric) {
	snap := c.n.router.Snapshot()
	for _, s := range c.n.router.Slots.Stats() {
		b, ok := snap.Backend(s.ID)
		if !ok {
			continue
		}
		_, _, why := c.n.router.Load(b, time.Now())
		gauge(descBConns, float64(s.Connections), s.ID, b.App, string(b.Region))
		gauge(descBMesh, float64(s.Connections+s.Others), s.ID, b.App, string(b.Region))
		gauge(descBUp, truth(why == route.Included), s.ID, b.App, string(b.Region))
		if home, rights := c.n.ledger.home(s.ID); home != "" {
			gauge(descBRights, float64(rights), s.ID, home)
		}
		for tier, picks := range s.Picks {
			counter(descBPicks, float64(picks), s.ID, strconv.Itoa(tier))
		}
		counter(descBFail, float64(s.Failures), s.ID)
		counter(descBEject, float64(s.Ejections), s.ID)
		for _, v := range c.n.vigil.verdicts(s.ID) {
			gauge(descBVerdict, truth(v.Up), s.ID, v.POP)
		}
		counter(descBBytes, float64(s.BytesIn), s.ID, "in")
		counter(descBBytes, float64(s.BytesOut), s.ID, "out")
		out <- prometheus.MustNewConstSummary(descBRTT, s.Connects, s.RTTSum.Seconds(), nil, s.ID)
		gauge(descBRTTLast, s.RTTLast.Seconds(), s.ID)
	}
}

// histogram is of counts up to each bound, and of a last one above them all.
func histogram(desc *prometheus.Desc, bounds []time.Duration, counts []uint64, sum time.Duration) prometheus.Metric {
	buckets, total := make(map[float64]uint64, len(bounds)), uint64(0)
	for i, bound := range bounds {
		total += counts[i]
		buckets[bound.Seconds()] = total
	}
	return prometheus.MustNewConstHistogram(desc, total+counts[len(bounds)], sum.Seconds(), buckets)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
