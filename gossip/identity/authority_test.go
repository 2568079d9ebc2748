package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func testAuthority(t testing.TB, n int) *authority {
	t.Helper()
	a, err := newAuthority(testKey(n))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestEveryHolderDerivesTheSameAuthority(t *testing.T) {
	a, b, other := testAuthority(t, 1), testAuthority(t, 1), testAuthority(t, 2)
	if !bytes.Equal(a.cert.Raw, b.cert.Raw) {
		t.Error("two derivations from one key differ")
	}
	if a.cert.Subject.CommonName != testKey(1).ID() || bytes.Equal(a.cert.RawSubject, other.cert.RawSubject) || a.private.Equal(other.private) {
		t.Error("two keys share an authority")
	}
	public := testNode(1).Public()
	first, err := a.issue("sa-1", public)
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.issue("sa-1", public)
	if err != nil || !bytes.Equal(first.Raw, second.Raw) {
		t.Errorf("a node's certificate differs from one start to the next (%v)", err)
	}
	if node, err := a.verify(first, x509.ExtKeyUsageServerAuth); err != nil || node != "sa-1" {
		t.Error(node, err)
	}
	if _, err := other.verify(first, x509.ExtKeyUsageServerAuth); err == nil {
		t.Error("verified under another key")
	}
	if first.PublicKey.(ed25519.PublicKey).Equal(a.cert.PublicKey) {
		t.Error("node and authority share a key")
	}
}

func TestCertificateCarriesEveryNodeID(t *testing.T) {
	a, public := testAuthority(t, 1), testNode(1).Public()
	carry := func(t interface{ Fatalf(string, ...any) }, id string) {
		cert, err := a.issue(id, public)
		if err != nil {
			t.Fatalf("issue for %q: %v", id, err)
		}
		if got, err := a.verify(cert, x509.ExtKeyUsageClientAuth); err != nil || got != id {
			t.Fatalf("issued for %q, verified as %q, %v", id, got, err)
		}
	}
	for _, id := range []string{"sa-1", "A.b_c", "..", ".", "-", "a..b", "_", strings.Repeat("x", 63), "a b", "a/b?c#d%2f:@", "é", "日本", "http://x/", strings.Repeat("é", 127)} {
		carry(t, id)
	}
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`^[A-Za-z0-9._-]{1,63}$`).Draw(t, "configured id")
		if rapid.Bool().Draw(t, "any text") {
			id = rapid.String().Filter(func(s string) bool { return checkNodeID(s) == nil }).Draw(t, "id")
		}
		carry(t, id)
	})
	for _, id := range []string{"", "a\nb", "a\x00", "\xff", "a\u202eb", strings.Repeat("x", 256)} {
		if _, err := a.issue(id, public); err == nil {
			t.Errorf("certified %q", id)
		}
	}
}
