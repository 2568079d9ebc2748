package identity

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testKey is a key that follows from a number.
func testKey(n int) Key {
	raw := make([]byte, keyBytes)
	for i := range raw {
		raw[i] = byte(n>>8) + byte(n*31+i*251)
	}
	raw[0], raw[1] = byte(n), byte(n>>8)
	return newKey(raw)
}

func TestParseKey(t *testing.T) {
	raw := make([]byte, keyBytes)
	for i := range raw {
		raw[i] = 0xfb - byte(i)%2 // many + and / in base64
	}
	want := newKey(raw)
	std := base64.StdEncoding.EncodeToString(raw)
	url := base64.URLEncoding.EncodeToString(raw)
	if std == url {
		t.Fatal("the test key has neither + nor /")
	}
	for _, text := range []string{std, url, strings.TrimSuffix(std, "="), strings.TrimSuffix(url, "="), std + "\n", " \t" + url + "\r\n"} {
		if k, err := ParseKey(text); err != nil || k != want {
			t.Errorf("ParseKey(%q) = %v, %v", text, k, err)
		}
	}
	half := base64.StdEncoding.EncodeToString(raw[:16])
	for text, says := range map[string]string{
		"":                             "empty",
		" \n":                          "empty",
		strings.Repeat("0f", keyBytes): "hex",
		half:                           "has 16 bytes, want 32",
		std[:40]:                       "has 30 bytes",
		std[:20] + "*" + std[21:]:      "see character 21",
		std[:20] + "\n" + std[20:]:     "not base64",
		std[:42] + "9=":                "see its end",
		std + "=":                      "not base64",
		"=" + std:                      "not base64",
		strings.Repeat(std, 200):       "too long",
		base64.StdEncoding.EncodeToString(Insecure.Gossip()): "public",
	} {
		_, err := ParseKey(text)
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "edgeproxy keygen") {
			t.Errorf("ParseKey(%q): %v, want %q and the remedy", text, err, says)
		} else if len(text) > 8 && strings.Contains(err.Error(), text[:8]) {
			t.Errorf("the error repeats the key: %v", err)
		}
	}
}

// What follows from a key is fixed for ever: POPs of two versions must agree.
func TestWhatFollowsFromAKeyNeverChanges(t *testing.T) {
	if got := Insecure.ID(); got != "f6f079201e238c10" {
		t.Errorf("id of the insecure key is now %s", got)
	}
	if got := string(Insecure.Gossip()); got != "edgeproxy: no key, no protection" {
		t.Errorf("gossip key is now %q", got)
	}
	a, err := newAuthority(Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x", hashOf(a.cert.Raw)); got != "4721545dc7a8ad087f5bb4538e465f0246d0dd4d" {
		t.Errorf("the authority's certificate is now %s", got)
	}
}

func TestNothingPrintsASecret(t *testing.T) {
	k := testKey(7)
	n := &Node{private: testNode(7).private}
	ring := NewKeyring(k)
	hidden := struct {
		k Key
		r Keyring
		n *Node
	}{k, ring, n}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		for _, v := range []any{k, &k, ring, &ring, n, hidden, &hidden, []Key{k}, [1]Keyring{ring}} {
			if _, ok := v.(fmt.Formatter); !ok && (verb == "%s" || verb == "%q") {
				continue // go vet refuses these verbs for such values, and fmt then shows all it finds
			}
			got := fmt.Sprintf(verb, v)
			for _, secret := range [][]byte{k.bytes(), n.private.Seed()} {
				for _, form := range []string{"%v", "%x", "%X", "%q", "%#v"} {
					text := strings.Trim(fmt.Sprintf(form, secret), "[]\"{}")
					if strings.Contains(got, text) {
						t.Errorf("Sprintf(%s, %T) shows the secret: %s", verb, v, got)
					}
				}
			}
		}
	}
	if got := fmt.Sprintf("%#v %s", k, k); got != k.ID()+" "+k.ID() {
		t.Errorf("a key prints as %q", got)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(base64.StdEncoding.EncodeToString(testKey(1).Gossip()))
	f.Add(base64.RawURLEncoding.EncodeToString(testKey(2).Gossip()) + "\n")
	f.Add("")
	f.Add(strings.Repeat("=", 50))
	f.Add(strings.Repeat("é", 21) + "x")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseKey(text)
		if err != nil {
			if k != (Key{}) {
				t.Fatal("an error and a key")
			}
			if digits := strings.TrimSpace(text); len(digits) > 20 && strings.Contains(err.Error(), digits) {
				t.Fatalf("the error repeats the text: %v", err)
			}
			return
		}
		again, err := ParseKey(base64.StdEncoding.EncodeToString(k.Gossip()))
		if err != nil || again != k {
			t.Fatalf("%q is read as a key that is not read again: %v", text, err)
		}
	})
}
