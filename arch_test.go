// Package edgeproxy_test keeps the layers of the house: which package may
// import which, what the pure ones may not touch, and that each says what it is.
package edgeproxy_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/edgeproxy/edgeproxy"

// room is one package: what it may import of ours and of third parties.
// Standard library only, where libraries is empty.
type room struct {
	ours      []string
	libraries []string
	pure      bool // computes only: no clock, socket, file, log or random source of its own
}

// rooms is the house, from the ground up; see the map in the README.
var rooms = map[string]room{
	"geo":                  {pure: true},
	"mesh":                 {ours: []string{"geo"}, pure: true},
	"mesh/feed":            {pure: true},
	"proxy/route":          {ours: []string{"geo", "mesh"}, pure: true},
	"proxy/route/rights":   {pure: true},
	"proxy/reactor":        {pure: true},
	"proxy/guard":          {pure: true},
	"proxy/sni":            {pure: true},
	"proxy/certs":          {libraries: []string{"github.com/rs/zerolog"}},
	"geo/mmdb":             {ours: []string{"geo"}, libraries: []string{"github.com/oschwald/maxminddb-golang/v2"}},
	"crdt":                 {pure: true},
	"crdt/sqlite":          {ours: []string{"crdt", "internal/progress"}, libraries: []string{"github.com/mattn/go-sqlite3", "modernc.org/sqlite", "golang.org/x/sys"}},
	"gossip":               {ours: []string{"crdt", "gossip/identity", "gossip/overlay", "internal/progress"}, libraries: []string{"github.com/rs/zerolog", "golang.org/x/sync"}},
	"gossip/identity":      {},
	"gossip/membership":    {libraries: []string{"github.com/hashicorp/serf", "github.com/hashicorp/memberlist", "github.com/rs/zerolog", "golang.org/x/sync"}},
	"gossip/overlay":       {pure: true},
	"gossip/memnet":        {libraries: []string{"github.com/hashicorp/memberlist"}},
	"gossip/simulation":    {}, // tests only: those may import what they like
	"config":               {ours: []string{"mesh"}, libraries: []string{"github.com/spf13/pflag", "github.com/knadh/koanf", "go.yaml.in/yaml/v3"}},
	"health":               {ours: []string{"geo", "mesh"}, pure: true},
	"health/checker":       {ours: []string{"health", "internal/exhausted", "mesh"}, libraries: []string{"github.com/rs/zerolog"}},
	"proxy":                {ours: []string{"geo", "internal/descriptor", "internal/exhausted", "mesh", "proxy/guard", "proxy/reactor", "proxy/route", "proxy/sni"}, libraries: []string{"github.com/rs/zerolog", "github.com/pires/go-proxyproto", "golang.org/x/sync", "golang.org/x/sys"}},
	"wg":                   {pure: true},
	"wg/device":            {ours: []string{"wg"}, libraries: []string{"golang.zx2c4.com/wireguard", "gvisor.dev/gvisor", "github.com/vishvananda/netlink", "github.com/rs/zerolog", "golang.org/x/net", "golang.org/x/sys"}},
	"dns":                  {ours: []string{"geo", "mesh", "proxy/route"}, libraries: []string{"github.com/miekg/dns", "github.com/rs/zerolog", "golang.org/x/net", "golang.org/x/sync"}},
	"api":                  {ours: []string{"mesh", "proxy/route"}, libraries: []string{"github.com/rs/zerolog"}},
	"agent":                {ours: []string{"api", "health", "health/checker", "mesh"}, libraries: []string{"github.com/rs/zerolog"}},
	"internal/exhausted":   {},
	"internal/descriptor":  {libraries: []string{"golang.org/x/sys"}},
	"internal/handover":    {libraries: []string{"github.com/coreos/go-systemd/v22"}},
	"internal/progress":    {pure: true},
	"internal/mockbackend": {libraries: []string{"golang.org/x/sync"}},
	"node": {
		ours:      []string{"api", "config", "crdt", "crdt/sqlite", "dns", "geo", "geo/mmdb", "gossip", "gossip/identity", "gossip/membership", "health", "health/checker", "internal/descriptor", "internal/handover", "internal/progress", "mesh", "mesh/feed", "proxy", "proxy/certs", "proxy/guard", "proxy/route", "proxy/route/rights", "wg", "wg/device"},
		libraries: []string{"github.com/rs/zerolog", "golang.org/x/sync", "github.com/prometheus/client_golang", "github.com/coreos/go-systemd", "golang.org/x/sys"},
	},
	"node/lab": {
		ours:      []string{"api", "config", "crdt/sqlite", "geo", "geo/mmdb", "internal/mockbackend", "node"}, // crdt/sqlite: the name of the SQL driver, for writes from outside
		libraries: []string{"github.com/rs/zerolog", "github.com/pires/go-proxyproto"},
	},
	"cmd/edgeproxy":    {ours: []string{"agent", "api", "config", "crdt/sqlite", "internal/handover", "mesh", "node", "node/lab", "proxy/route"}, libraries: []string{"*"}},
	"cmd/mock-backend": {ours: []string{"internal/mockbackend"}},
	"bench":            {ours: []string{"crdt/sqlite", "internal/mockbackend"}, libraries: []string{"golang.org/x/sync", "golang.org/x/sys"}},
	"bench/balance":    {ours: []string{"geo", "mesh", "proxy/route", "proxy/route/rights"}},
	"bench/mesh":       {ours: []string{"crdt", "geo", "gossip/overlay"}},
	"bench/overlay":    {ours: []string{"wg", "wg/device"}, libraries: []string{"golang.zx2c4.com/wireguard", "github.com/rs/zerolog", "golang.org/x/sys"}},
	"cluster-tests":    {libraries: []string{"*"}},
}

// impure is what a pure package must take as an argument instead.
var impure = []string{"net", "net/http", "os", "os/exec", "log", "log/slog", "database/sql", "math/rand", "math/rand/v2", "crypto/rand", "syscall"}

type listed struct {
	ImportPath string
	Dir        string
	Imports    []string
	GoFiles    []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 {
			all = append(all, p)
		}
	}
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		r, ok := rooms[name]
		if !ok {
			t.Errorf("%s has no room: say in arch_test.go what it may import, and in the README what it is for", name)
			continue
		}
		for _, imp := range p.Imports {
			if why := r.refuses(imp); why != "" {
				t.Errorf("%s imports %s: %s", name, imp, why)
			}
		}
	}
}

func (r room) refuses(imp string) string {
	if ours, ok := strings.CutPrefix(imp, module+"/"); ok {
		if !slices.Contains(r.ours, ours) {
			return "arrows point down only; join the two in package node"
		}
		return ""
	}
	if first, _, _ := strings.Cut(imp, "/"); !strings.Contains(first, ".") {
		if r.pure && slices.Contains(impure, imp) {
			return "the package is pure; take what it gives as an argument"
		}
		return ""
	}
	for _, lib := range r.libraries {
		if lib == "*" || imp == lib || strings.HasPrefix(imp, lib+"/") {
			return ""
		}
	}
	return "this library has no business here; if it does, give it a reason in arch_test.go"
}

func TestPurePackagesReadNoClock(t *testing.T) {
	for _, p := range packages(t) {
		if !rooms[strings.TrimPrefix(p.ImportPath, module+"/")].pure {
			continue
		}
		for _, name := range p.GoFiles {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "NewTimer", "NewTicker", "AfterFunc", "Tick"}, sel.Sel.Name) {
					t.Errorf("%s: time.%s in a pure package: take the time as an argument", fset.Position(n.Pos()), sel.Sel.Name)
				}
				return true
			})
		}
	}
}

func TestEveryPackageSaysWhatItIsOnce(t *testing.T) {
	for _, p := range packages(t) {
		var with []string
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				with = append(with, name)
			}
		}
		if len(with) != 1 {
			t.Errorf("%s: package comment in %v, want it in exactly one file", p.ImportPath, with)
		}
	}
}
