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
		{`{"weight":"5"}`, "weight", "string"},
		{`{"weight":1.5}`, "weight", "number"},
		{`{"healthy":1}`, "healthy", "number"},
		{`{"addr":"10.0.0.1"}`, "addr", "ip:port"},
		{`{"addr":"host:80"}`, "addr", "ip:port"},
		{`{"addr":"10.0.0.1:80","port":80}`, "addr", "not both"},
		{`{}{}`, "", "more than one"},
		{`[]`, "", "JSON object"},
		{``, "", "JSON object"},
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
