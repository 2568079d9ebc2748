package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRotation(t *testing.T) {
	a, b := testKey(1), testKey(2)
	r := NewKeyring(a)
	steps := []struct {
		do   func() (Keyring, error)
		want error
		live []Key
	}{
		{func() (Keyring, error) { return r.Remove(a.ID(), 1000) }, ErrPrimaryKey, []Key{a}},
		{func() (Keyring, error) { return r.Use(b.ID(), 1000) }, ErrUnknownKey, []Key{a}},
		{func() (Keyring, error) { return r.Remove(b.ID(), 1000) }, ErrUnknownKey, []Key{a}},
		{func() (Keyring, error) { return r.Add(Insecure, 1000) }, ErrInsecure, []Key{a}},
		{func() (Keyring, error) { return r.Add(b, 1000) }, nil, []Key{a, b}},
		{func() (Keyring, error) { return r.Add(b, 2000) }, nil, []Key{a, b}},
		{func() (Keyring, error) { return r.Use(b.ID(), 3000) }, nil, []Key{b, a}},
		{func() (Keyring, error) { return r.Use(b.ID(), 4000) }, nil, []Key{b, a}},
		{func() (Keyring, error) { return r.Remove(a.ID(), 5000) }, nil, []Key{b}},
		{func() (Keyring, error) { return r.Remove(a.ID(), 6000) }, nil, []Key{b}},
		{func() (Keyring, error) { return r.Use(a.ID(), 6000) }, ErrUnknownKey, []Key{b}},
	}
	for i, s := range steps {
		was := r.Encode()
		next, err := s.do()
		if !errors.Is(err, s.want) || !slices.Equal(next.Live(), s.live) {
			t.Fatalf("step %d: %v, %v", i+1, next, err)
		}
		if !bytes.Equal(r.Encode(), was) {
			t.Fatalf("step %d changed the keyring it was called on", i+1)
		}
		r = next
	}
	want := []KeyInfo{{ID: b.ID(), Primary: true, Since: 3000}, {ID: a.ID(), Removed: true, Since: 5000}}
	if got := r.List(); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	if secret := r.Encode(); bytes.Contains(secret, []byte(jsonKey(a))) || !bytes.Contains(secret, []byte(jsonKey(b))) {
		t.Errorf("secrets in %s", secret)
	}
	if r = must(r.Add(a, 7000)); !slices.Equal(r.Live(), []Key{b, a}) {
		t.Errorf("added again: %v", r)
	}
}

func jsonKey(k Key) string {
	body, _ := json.Marshal(k.Gossip())
	return strings.Trim(string(body), `"`)
}

func TestKeyringBounds(t *testing.T) {
	r := NewKeyring(testKey(0))
	for i := 1; i < MaxLive; i++ {
		r = must(r.Add(testKey(i), 0))
	}
	if _, err := r.Add(testKey(MaxLive), 0); !errors.Is(err, ErrFull) {
		t.Errorf("one more than %d: %v", MaxLive, err)
	}
	if more, start, err := r.Configure(testKey(99), 0); err != nil || start != StartAdded || more.Primary() != testKey(99) {
		t.Errorf("the operator's key does not fit: %v, %v", start, err)
	}
	// Merging knows no such limit, but has one.
	for i := 100; i < 100+3*maxKeys; i++ {
		r = r.Merge(must(NewKeyring(testKey(0)).Add(testKey(i), int64(i))))
	}
	if len(r.List()) != maxKeys+1 || r.Primary() != testKey(0) || r.List()[1].ID != testKey(100+3*maxKeys-1).ID() {
		t.Errorf("%d keys", len(r.List()))
	}
	if body := r.Encode(); len(body) > MaxKeyring/2 {
		t.Errorf("the largest keyring has %d bytes", len(body))
	}
	if _, err := must(NewKeyring(testKey(1)).Add(testKey(2), maxStamp)).Use(testKey(2).ID(), 0); err == nil {
		t.Error("a stamp beyond the last")
	}
}

func TestInsecureStandsAlone(t *testing.T) {
	public, r := NewKeyring(Insecure), NewKeyring(testKey(1))
	if !public.Insecure() || r.Insecure() || (Keyring{}).Insecure() {
		t.Error("who is insecure?")
	}
	if _, err := public.Add(testKey(1), 5); !errors.Is(err, ErrInsecure) {
		t.Error(err)
	}
	if m := public.Merge(r); !m.Equal(r) || !r.Merge(public).Equal(r) || !public.Merge(public).Equal(public) {
		t.Error("the public key beside another")
	}
	if err := public.Save(filepath.Join(t.TempDir(), "keys")); !errors.Is(err, ErrInsecure) {
		t.Error(err)
	}
	forged := Keyring{keys: slices.Concat(public.keys, r.keys), primary: r.primary, used: 1}
	slices.SortFunc(forged.keys, func(a, b entry) int { return strings.Compare(a.id, b.id) })
	if _, err := DecodeKeyring(forged.Encode()); err == nil {
		t.Error("the public key came in beside another")
	}
}

func TestConfiguredKeyAndDocument(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routing.db.keys")
	a, b, c := testKey(1), testKey(2), testKey(3)
	open := func(configured Key, want Start, live ...Key) Keyring {
		t.Helper()
		r, start, err := OpenKeyring(path, configured, 1000)
		if err != nil || start != want || !slices.Equal(r.Live(), live) {
			t.Fatalf("%v, %v, %v: want %v, %v", r, start, err, want, live)
		}
		return r
	}
	open(Insecure, StartInsecure, Insecure)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the public key was kept")
	}
	open(a, StartFresh, a)
	r := open(a, StartKnown, a)
	r = must(must(r.Add(b, 2000)).Use(b.ID(), 2001))
	if err := r.Save(path); err != nil {
		t.Fatal(err)
	}
	open(a, StartKnown, b, a)
	if err := must(r.Remove(a.ID(), 2002)).Save(path); err != nil {
		t.Fatal(err)
	}
	open(a, StartRemoved, b)
	open(b, StartKnown, b)
	open(c, StartAdded, c, b)
	open(c, StartKnown, c, b)
	open(b, StartKnown, c, b)
	open(Insecure, StartInsecure, Insecure)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

func TestKeyringFileRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	good := NewKeyring(testKey(1)).Encode()
	for name, c := range map[string]struct {
		body []byte
		mode fs.FileMode
		says string
	}{
		"empty":        {nil, 0o600, "remove it: this POP then starts"},
		"truncated":    {good[:len(good)/2], 0o600, "remove it: this POP then starts"},
		"public":       {NewKeyring(Insecure).Encode(), 0o600, "remove it: this POP then starts"},
		"others read":  {good, 0o644, "chmod 600"},
		"newer":        {bytes.Replace(good, []byte(`"version":1`), []byte(`"version":2`), 1), 0o600, "upgrade"},
		"unknown word": {bytes.Replace(good, []byte(`"version":1`), []byte(`"version":1,"x":2`), 1), 0o600, "shape"},
		"two":          {append(bytes.Clone(good), good...), 0o600, "other text"},
		"huge":         {bytes.Repeat([]byte(" "), maxFile+1), 0o600, "larger"},
	} {
		os.Remove(path)
		if err := os.WriteFile(path, c.body, c.mode); err != nil {
			t.Fatal(err)
		}
		_, _, err := OpenKeyring(path, testKey(1), 5)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
		if body, err := os.ReadFile(path); err != nil || !bytes.Equal(body, c.body) {
			t.Errorf("%s: the file was touched (%v)", name, err)
		}
	}
}

func TestDocumentRefused(t *testing.T) {
	a, b, c := testKey(1), testKey(2), testKey(3)
	whole := must(must(must(NewKeyring(a).Add(b, 10)).Add(c, 11)).Remove(c.ID(), 12))
	find := func(d *document, k Key) *documentKey {
		return &d.Keys[slices.IndexFunc(d.Keys, func(e documentKey) bool { return e.ID == k.ID() })]
	}
	for name, change := range map[string]func(*document){
		"":                           func(*document) {},
		"no keys":                    func(d *document) { d.Keys = nil },
		"no primary":                 func(d *document) { d.Primary = "" },
		"unknown primary":            func(d *document) { d.Primary = testKey(9).ID() },
		"removed primary, no secret": func(d *document) { d.Primary = c.ID() },
		"used before all":            func(d *document) { d.Used = 0 },
		"used after its stamp":       func(d *document) { d.Used = 2 },
		"stamp of nothing":           func(d *document) { find(d, b).Stamp = 0 },
		"stamp of the far future":    func(d *document) { find(d, b).Stamp = maxStamp + 1 },
		"unsorted":                   func(d *document) { slices.Reverse(d.Keys) },
		"one twice":                  func(d *document) { d.Keys = append(d.Keys, d.Keys[2]) },
		"secret of another":          func(d *document) { find(d, b).Secret = jsonKey(testKey(9)) },
		"no secret":                  func(d *document) { find(d, b).Secret = "" },
		"short secret":               func(d *document) { find(d, b).Secret = "AAAA" },
		"removed with its secret":    func(d *document) { find(d, c).Secret = jsonKey(c) },
		"removed, id too short":      func(d *document) { find(d, c).ID = find(d, c).ID[:14] },
		"removed, id in capitals": func(d *document) {
			d.Keys = append(d.Keys, documentKey{ID: "FFFFFFFFFFFFFFFF", Stamp: 5, Removed: true})
		},
		"removed, id not hex": func(d *document) {
			d.Keys = append(d.Keys, documentKey{ID: "zzzzzzzzzzzzzzzz", Stamp: 5, Removed: true})
		},
		"too many": func(d *document) {
			for i := range maxKeys {
				d.Keys = append(d.Keys, documentKey{ID: fmt.Sprintf("ffffffffffff%04x", i), Stamp: 5, Removed: true})
			}
		},
	} {
		var d document
		if err := json.Unmarshal(whole.Encode(), &d); err != nil {
			t.Fatal(err)
		}
		change(&d)
		body, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := DecodeKeyring(body); (err == nil) != (name == "") || err != nil && !r.Empty() {
			t.Errorf("%q: %v, %v", name, r, err)
		}
	}
}

func FuzzDecodeKeyring(f *testing.F) {
	both := must(NewKeyring(testKey(1)).Add(testKey(2), 10))
	f.Add(NewKeyring(testKey(1)).Encode())
	f.Add(NewKeyring(Insecure).Encode())
	f.Add(both.Encode())
	f.Add(must(both.Remove(testKey(2).ID(), 11)).Encode())
	f.Add(must(both.Remove(testKey(2).ID(), 20)).Merge(must(both.Use(testKey(2).ID(), 15))).Encode())
	f.Add([]byte(`{"version":1,"primary":"","used":1,"keys":[]}`))
	f.Add([]byte(`{"version":1,"keys":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := DecodeKeyring(body)
		if err != nil {
			if !r.Empty() {
				t.Fatal("an error and a keyring")
			}
			return
		}
		if len(r.Live()) == 0 || r.Primary() == (Key{}) || len(r.keys) > maxKeys+1 {
			t.Fatalf("live %v of %v", r.Live(), r.List())
		}
		back, err := DecodeKeyring(r.Encode())
		if err != nil || !back.Equal(r) {
			t.Fatalf("%s is not read back: %v", r.Encode(), err)
		}
		if m := r.Merge(both); !m.Equal(both.Merge(r)) || !m.Merge(r).Equal(m) || len(m.Live()) == 0 {
			t.Fatalf("merging %s breaks the laws", body)
		}
	})
}
