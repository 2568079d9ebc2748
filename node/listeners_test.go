package node

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// TestPlanListeners: who listens where, and who cannot because another does.
func TestPlanListeners(t *testing.T) {
	tls := func(app, listen string, names ...string) mesh.Service {
		return mesh.Service{App: app, Mode: mesh.TLSPassthrough, Listen: strings.Split(listen, ","), SNI: names}
	}
	tcp := func(app string, listen ...string) mesh.Service {
		return mesh.Service{App: app, Mode: mesh.TCP, Listen: listen}
	}
	plan, faults := planListeners([]mesh.Service{
		tcp("a", ":5432", "192.0.2.1:80"), tls("b", ":443", "b.example", "both.example", "too.example"), tls("c", ":443,:8443", "*.c.example", "both.example", "too.example"),
		tcp("d", ":443"), tcp("e", ":5432"), tcp("f", "127.0.0.1:8180", ":8080"), tcp("g"), tls("h", ":5432", "h.example"), tcp("i", "192.0.2.1:9000"), tcp("j", ":9000"),
	}, map[string]string{"127.0.0.1:8180": "API", "127.0.0.1:8080": "default listener"})
	got := map[string]string{}
	for _, p := range plan {
		for _, s := range p.services {
			got[p.addr] += s.App
		}
	}
	want := map[string]string{":5432": "a", "192.0.2.1:80": "a", ":443": "bc", ":8443": "c", "192.0.2.1:9000": "i"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("plan %v, want %v", got, want)
	}
	var said []string
	for _, f := range faults.list() {
		said = append(said, fmt.Sprintf("%s %s: %s", f.App, f.Listen, f.Error))
	}
	wantSaid := []string{
		"c :443: clients do not find it by the name both.example and 1 more: it is app b's there",
		"d :443: the address is app b's, and only services with TLS can share one",
		"e :5432: the address is app a's, and only services with TLS can share one",
		"f 127.0.0.1:8180: the address is this POP's API",
		"f :8080: the address is this POP's default listener",
		"h :5432: the address is app a's, and only services with TLS can share one",
		"j :9000: app i listens at 192.0.2.1:9000, which is part of the same address",
	}
	if !slices.Equal(said, wantSaid) {
		t.Errorf("faults\n%s\nwant\n%s", strings.Join(said, "\n"), strings.Join(wantSaid, "\n"))
	}
}

// TestClash: a service that is new, or changed, takes nothing from another, and
// gets what it asks for. What was wrong before is not its fault.
func TestClash(t *testing.T) {
	tls := func(app, listen string, names ...string) mesh.Service {
		return mesh.Service{App: app, Mode: mesh.TLSPassthrough, Listen: []string{listen}, SNI: names}
	}
	tcp := func(app string, listen ...string) mesh.Service {
		return mesh.Service{App: app, Mode: mesh.TCP, Listen: listen}
	}
	services := []mesh.Service{tcp("b", ":5432"), tcp("c", ":5432"), tls("m", ":443", "m.example"), tls("n", ":443", "n.example", "m.example")}
	for _, c := range []struct {
		with mesh.Service
		want string // whom it hurts
	}{
		{tcp("a", ":5432"), "b"},
		{tcp("d", ":5432"), "d"},
		{tcp("d", ":5433"), ""},
		{tcp("a", "192.0.2.1:443"), "m"},
		{tls("a", ":443", "n.example"), "n"},
		{tls("z", ":443", "n.example"), "z"},
		{tls("z", ":443", "z.example"), ""},
		{tcp("z", ":8180"), "z"},
		{tcp("b", ":5432", ":5433"), ""},
		{tls("n", ":443", "n.example"), ""},
		{tcp("z"), ""},
	} {
		hurt := ""
		if f := clash(services, c.with, map[string]string{"127.0.0.1:8180": "API"}); f != nil {
			hurt = f.App
		}
		if hurt != c.want {
			t.Errorf("%s at %q by %q hurts %q, want %q", c.with.App, c.with.Listen, c.with.SNI, hurt, c.want)
		}
	}
}

// TestPlanIsBounded: rows that anybody wrote do not take all of a POP's
// descriptors, nor its time.
func TestPlanIsBounded(t *testing.T) {
	var services []mesh.Service
	for i := range 1000 {
		services = append(services, mesh.Service{App: fmt.Sprintf("%04d", i), Mode: mesh.TCP, Listen: []string{fmt.Sprintf(":%d", 10000+i)}})
	}
	plan, faults := planListeners(services, nil)
	if list := faults.list(); len(plan) != mostListeners || len(list) != mesh.MaxFaults || !strings.Contains(list[0].Error, "as many as it may") ||
		list[len(list)-1].Error != fmt.Sprintf("and %d more faults", 1000-mostListeners-mesh.MaxFaults+1) {
		t.Errorf("%d listeners, %d faults, the last %v", len(plan), len(list), list[len(list)-1])
	}
	services = nil
	var names, listen []string
	for i := range 256 {
		names = append(names, fmt.Sprintf("%d.example", i))
	}
	for i := range 16 {
		listen = append(listen, fmt.Sprintf(":%d", 10000+i))
	}
	for i := range 100 {
		services = append(services, mesh.Service{App: fmt.Sprintf("%04d", i), Mode: mesh.TLSPassthrough, Listen: listen, SNI: names})
	}
	plan, faults = planListeners(services, nil)
	if list := faults.list(); len(plan) != 16 || len(list) != mesh.MaxFaults {
		t.Errorf("%d listeners, %d faults", len(plan), len(list))
	}
}
