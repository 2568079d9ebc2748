package api

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/mesh"
)

func TestPatchRefuses(t *testing.T) {
	for _, c := range []struct{ body, field, word string }{
		{`{"wieght":5}`, "wieght", "unknown field"},
		{`{"weight":"5"}`, "weight", "is a JSON string, want a whole number"},
		{`{"weight":1.5}`, "weight", "is a JSON number 1.5, want a whole number"},
		{`{"healthy":1}`, "healthy", "is a JSON number, want true or false"},
		{`{"app":["a"]}`, "app", "is a JSON array, want a text"},
		{`{"addr":"10.0.0.1"}`, "addr", "ip:port"},
		{`{"addr":"host:80"}`, "addr", "ip:port"},
		{`{"addr":"10.0.0.1:80","port":80}`, "addr", "not both"},
		{`{}{}`, "", "more than one"},
		{`[]`, "", "request body is a JSON array, want an object"},
		{`"a"`, "", "request body is a JSON string, want an object"},
		{``, "", "request body is empty, want a JSON object"},
		{`{"id":`, "", "JSON object"},
	} {
		p, err := decode[Patch](strings.NewReader(c.body))
		if err == nil {
			_, _, err = p.Columns()
		}
		field := ""
		if fe, ok := errors.AsType[*mesh.FieldError](err); ok {
			field = fe.Field
		}
		if err == nil || field != c.field || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: field %q, %v; want field %q and %q", c.body, field, err, c.field, c.word)
		}
	}
}

// TestAsGiven: an error about the address names what the request has, not a
// column that the client has never heard of.
func TestAsGiven(t *testing.T) {
	addr, ip, port := new("0.0.0.0:80"), new("0.0.0.0"), new(int64(70000))
	for _, c := range []struct {
		set       Patch
		of        string
		isNew     bool
		field     string
		isMissing bool
	}{
		{Patch{}, "wg_ip", true, "addr", true},
		{Patch{Port: port}, "wg_ip", true, "ip", true},
		{Patch{Port: port}, "ip", true, "ip", false}, // the row's own is refused
		{Patch{}, "ip", true, "ip", false},
		{Patch{Port: port}, "wg_ip", false, "ip", false}, // the row's own makes no sense
		{Patch{IP: ip}, "wg_ip", true, "ip", false},
		{Patch{IP: ip}, "port", true, "port", false},
		{Patch{Addr: addr}, "wg_ip", true, "addr", false},
		{Patch{Addr: addr}, "port", false, "addr", false},
		{Patch{Addr: addr}, "weight", true, "weight", false},
	} {
		fe, ok := errors.AsType[*mesh.FieldError](c.set.asGiven(&mesh.FieldError{Field: c.of, Message: "why"}, c.isNew))
		if !ok || fe.Field != c.field || strings.HasPrefix(fe.Message, "is missing") != c.isMissing {
			t.Errorf("%+v: %v; want field %s, missing %v", c, fe, c.field, c.isMissing)
		}
	}
	if err := (Patch{}).asGiven(ErrExists, true); err != ErrExists {
		t.Errorf("another error became %v", err)
	}
}

func TestPatchColumns(t *testing.T) {
	p, err := decode[Patch](strings.NewReader(`{"addr":"[fd00::1]:8080","healthy":false,"draining":true,"weight":3}`))
	if err != nil {
		t.Fatal(err)
	}
	backend, options, err := p.Columns()
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]any{"wg_ip": "fd00::1", "port": int64(8080), "healthy": int64(0), "weight": int64(3)}; !reflect.DeepEqual(backend, want) {
		t.Errorf("backends: %v, want %v", backend, want)
	}
	if want := map[string]any{"draining": int64(1)}; !reflect.DeepEqual(options, want) {
		t.Errorf("backend_options: %v, want %v", options, want)
	}
}

// FuzzPatch: whatever somebody sends is refused, or is a patch that says the
// same after another round through JSON.
func FuzzPatch(f *testing.F) {
	f.Add(`{"id":"sa-1","app":"a","region":"sa","addr":"10.0.0.1:80","healthy":true,"weight":1,"soft_limit":2,"hard_limit":3}`)
	f.Add(`{"ip":"::1","port":80,"deleted":false,"draining":true,"country":"BR"}`)
	f.Add(`{"weight":1e400}`)
	f.Fuzz(func(t *testing.T, body string) {
		p, err := decode[Patch](strings.NewReader(body))
		if err != nil {
			return
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		q, err := decode[Patch](strings.NewReader(string(again)))
		if err != nil || !reflect.DeepEqual(p, q) {
			t.Fatalf("%s became %s: %v", body, again, err)
		}
		b1, o1, err1 := p.Columns()
		b2, o2, err2 := q.Columns()
		if !reflect.DeepEqual(b1, b2) || !reflect.DeepEqual(o1, o2) || (err1 == nil) != (err2 == nil) {
			t.Fatalf("columns differ: %v %v, %v %v", b1, b2, err1, err2)
		}
	})
}
