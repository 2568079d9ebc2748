package proxy

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

var seed = flag.Uint64("seed", 0, "of the randomised tests; 0 takes one from the clock")

func TestMain(m *testing.M) {
	// Parallel cases wait for timers and hardly compute: two cores bear many.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what should happen at once: long, for
// machines with other work; it decides only how soon a failure is reported.
const patience = 45 * time.Second

// relayUnderTest is what the cases know of an implementation of the relay.
type relayUnderTest interface {
	Serve(ctx context.Context, ln *net.TCPListener, port *Port, others ...*net.TCPListener) error
	Configure(Settings)
	Kill()
	Active() int64
	Stats() Stats
}

type implementation struct {
	name string
	make func(Config, *route.Router, Geo, zerolog.Logger) relayUnderTest
}

// implementations must behave alike: every case runs against each.
var implementations = []implementation{
	{"goroutines", func(cfg Config, r *route.Router, g Geo, log zerolog.Logger) relayUnderTest {
		cfg.Relay = Goroutines
		return counting{New(cfg, r, g, log)}
	}},
	{"reactor", func(cfg Config, r *route.Router, g Geo, log zerolog.Logger) relayUnderTest {
		cfg.Relay = Reactor // on other systems the same again
		return counting{New(cfg, r, g, log)}
	}},
}

type counting struct{ *Server }

func (c counting) Stats() Stats { return c.Metrics.Stats() }

// setup says what a case wants; the zero value is a relay without backends.
type setup struct {
	Config
	targets []target
	places  fakeGeo
	app     string
	port    *Port         // nil: of the app
	ttl     time.Duration // of bindings; 0 keeps none
	ln      *net.TCPListener
	ctx     context.Context // nil: one that ends with relay.end
	quiet   bool            // no log, as in production at level info
}

// target is a row of the table backends. Those of a lower rank are nearer to
// every client whose place is not known, and so come first.
type target struct {
	id   string
	addr netip.AddrPort
	rank int
	hard int64
	app  string
	out  mesh.ProxyVersion
}

var rankRegions = []geo.Region{"aa", "bb", "cc", "dd", "ee", "ff"}

type fakeGeo map[netip.Addr]geo.Place

func (g fakeGeo) Lookup(a netip.Addr) geo.Place { return g[a] }

// relay is a running relay.
type relay struct {
	relayUnderTest
	port   *Port
	addr   netip.AddrPort
	router *route.Router
	log    *logBuffer
	end    context.CancelFunc // what SIGTERM does
	served chan struct{}      // closed when Serve has returned
	err    error              // of Serve
}

type starter func(t testing.TB, s setup) *relay

// start runs a relay until the end of the test, where everything that it took
// must have been given back.
func start(t testing.TB, impl func(Config, *route.Router, Geo, zerolog.Logger) relayUnderTest, s setup) *relay {
	t.Helper()
	r := &relay{log: &logBuffer{}, served: make(chan struct{})}
	r.router = route.NewRouter(route.NewAffinity(s.ttl, 0))
	r.router.Update(snapshot(t, s.targets), time.Now())
	log := zerolog.New(r.log)
	if s.AccessLog = !s.quiet; s.quiet {
		log = log.Level(zerolog.WarnLevel)
	}
	r.relayUnderTest = impl(s.Config, r.router, s.places, log)
	ctx := s.ctx
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, r.end = context.WithCancel(ctx)
	if s.ln == nil {
		s.ln = listen(t)
	}
	if s.port == nil {
		s.port = App(s.app)
	}
	r.port = s.port
	r.addr = s.ln.Addr().(*net.TCPAddr).AddrPort()
	go func() { defer close(r.served); r.err = r.Serve(ctx, s.ln, s.port) }()
	t.Cleanup(func() { r.stop(t) })
	return r
}

func listen(t testing.TB) *net.TCPListener {
	t.Helper()
	ln, err := Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func snapshot(t testing.TB, targets []target) *mesh.Snapshot {
	t.Helper()
	var rows mesh.Rows
	positions := map[geo.Region]geo.Vector{}
	for i, r := range rankRegions {
		positions[r] = geo.Position{Lat: 0, Lon: float64(10 * i)}.Vector()
	}
	for _, tg := range targets {
		rows.Backends = append(rows.Backends, []any{tg.id, tg.app, string(rankRegions[tg.rank]), tg.addr.Addr().String(),
			int64(tg.addr.Port()), int64(1), int64(1), int64(100), tg.hard, int64(0)})
	}
	for _, tg := range targets {
		rows.Options = append(rows.Options, []any{tg.id, nil, nil, nil, tg.out.String()})
	}
	snap := mesh.NewSnapshot(mesh.POP{Node: "aa-test", Region: "aa", Position: positions["aa"]}, rows, positions)
	for _, p := range snap.Problems {
		t.Fatal(p)
	}
	return snap
}

// stop ends the relay at once and checks the books: no place taken, nothing
// open, every accepted connection ended once.
func (r *relay) stop(t testing.TB) {
	t.Helper()
	r.end()
	r.Kill()
	r.waitServed(t)
	if r.err != nil {
		t.Errorf("Serve = %v after its context ended, want nil", r.err)
	}
	if n := r.Active(); n != 0 {
		t.Errorf("%d connections active after Serve, want 0", n)
	}
	for _, s := range r.router.Slots.Stats() {
		if s.Connections != 0 {
			t.Errorf("backend %s: %d places taken after Serve, want 0", s.ID, s.Connections)
		}
	}
	st := r.Stats()
	var ended uint64
	for _, n := range st.Ended {
		ended += n
	}
	if ended != st.Accepted {
		t.Errorf("%d connections accepted, %d ended %v", st.Accepted, ended, st.Ended)
	}
	if t.Failed() && testing.Verbose() {
		t.Logf("log:\n%s", r.log)
	}
}

func (r *relay) waitServed(t testing.TB) {
	t.Helper()
	select {
	case <-r.served:
	case <-time.After(patience):
		t.Fatalf("Serve has not returned after %v, %d connections active", patience, r.Active())
	}
}

// slot is what the relay counts for a backend.
func (r *relay) slot(t testing.TB, id string) route.SlotStats {
	t.Helper()
	for _, s := range r.router.Slots.Stats() {
		if s.ID == id {
			return s
		}
	}
	t.Fatalf("no backend %s", id)
	return route.SlotStats{}
}

// idle waits until every connection has ended.
func (r *relay) idle(t testing.TB) {
	t.Helper()
	eventually(t, "all connections have ended, and are counted", func() bool {
		st, ended := r.Stats(), uint64(0)
		for _, n := range st.Ended {
			ended += n
		}
		return r.Active() == 0 && ended == st.Accepted
	})
}

// line is a line of the log.
type line struct {
	Level, Message, Client, Country, Region, Backend, Reason, End string
	Attempts                                                      int
	BytesIn                                                       int64    `json:"bytes_in"`
	BytesOut                                                      int64    `json:"bytes_out"`
	ConnectMS                                                     *float64 `json:"connect_ms"`
	TookMS                                                        *float64 `json:"took_ms"`
}

type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lines returns those with the message.
func (l *logBuffer) lines(t testing.TB, message string) []line {
	t.Helper()
	var found []line
	for text := range strings.Lines(l.String()) {
		var ln line
		if err := json.Unmarshal([]byte(text), &ln); err != nil {
			t.Fatalf("log line %q: %v", text, err)
		}
		if ln.Message == message {
			found = append(found, ln)
		}
	}
	return found
}

// accessLog waits for n lines of the access log: they are written when
// connections have ended.
func (r *relay) accessLog(t testing.TB, n int) []line {
	t.Helper()
	var lines []line
	eventually(t, fmt.Sprintf("the access log has %d lines", n), func() bool {
		lines = r.log.lines(t, "connection")
		return len(lines) >= n
	})
	if len(lines) != n {
		t.Fatalf("the access log has %d lines, want %d:\n%s", len(lines), n, r.log)
	}
	return lines
}

// ends waits for the n-th line of the access log and checks how that connection ended.
func (r *relay) ends(t testing.TB, n int, want end) line {
	t.Helper()
	got := r.accessLog(t, n)[n-1]
	if got.End != want.String() {
		t.Errorf("connection ended %q, want %q", got.End, want)
	}
	return got
}

// eventually waits until cond is true.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for !cond() {
		select {
		case <-look.C:
		case <-late.C:
			t.Fatalf("not so after %v: %s", patience, what)
		}
	}
}

// random is a source that the printed seed replays.
func random(t testing.TB) *rand.Rand {
	t.Helper()
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("replay with: go test ./proxy -run '^%s$' -seed %d", t.Name(), s)
	return rand.New(rand.NewPCG(s, 0))
}

// wanted says whether EDGEPROXY_TEST names a kind of tests that needs more
// than time and Go: soak (minutes, the machine for itself, 20,000 descriptors).
func wanted(kind string) bool {
	return slices.Contains(strings.Split(os.Getenv("EDGEPROXY_TEST"), ","), kind)
}

// often is how many rounds a test does: few by default, all where it may last.
func often(few, all int) int {
	if wanted("soak") {
		return all
	}
	return few
}
