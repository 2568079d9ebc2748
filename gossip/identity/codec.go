package identity

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// document is a keyring as JSON, in its file and between POPs.
type document struct {
	Version int           `json:"version"`
	Primary string        `json:"primary"`
	Used    int64         `json:"used"`
	Keys    []documentKey `json:"keys"`
}

type documentKey struct {
	ID      string `json:"id"`
	Stamp   int64  `json:"stamp"`
	Removed bool   `json:"removed,omitempty"`
	Secret  string `json:"secret,omitempty"` // base64
}

const documentVersion = 1

// MaxKeyring is the size of the largest document that is decoded, in bytes.
const MaxKeyring = maxFile

// Encode is the document, secrets included: for a private file or a peer that
// was authenticated. Equal keyrings have equal bytes.
func (r Keyring) Encode() []byte {
	doc := document{Version: documentVersion, Primary: r.primary, Used: r.used, Keys: make([]documentKey, len(r.keys))}
	for i, e := range r.keys {
		doc.Keys[i] = documentKey{ID: e.id, Stamp: e.stamp, Removed: e.removed}
		if r.live(e) {
			doc.Keys[i].Secret = base64.StdEncoding.EncodeToString(e.secret.bytes())
		}
	}
	body, err := json.Marshal(doc)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return append(body, '\n')
}

// DecodeKeyring reads a document, whoever sent it. Errors hold nothing of it.
func DecodeKeyring(body []byte) (Keyring, error) {
	if len(body) > MaxKeyring {
		return Keyring{}, fmt.Errorf("keyring of more than %d bytes", MaxKeyring)
	}
	var doc document
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields() // a field that is dropped would break the merge
	if d.Decode(&doc) != nil {
		return Keyring{}, errors.New("keyring is not JSON of the expected shape")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Keyring{}, errors.New("keyring is followed by other text")
	}
	if doc.Version != documentVersion {
		return Keyring{}, fmt.Errorf("keyring of version %d, this edgeproxy reads %d: upgrade it", doc.Version, documentVersion)
	}
	if len(doc.Keys) > maxKeys+1 { // the primary may stand beside the latest
		return Keyring{}, fmt.Errorf("keyring of more than %d keys", maxKeys+1)
	}
	r := Keyring{primary: doc.Primary, used: doc.Used}
	for i, k := range doc.Keys {
		e, err := k.entry(k.ID == doc.Primary)
		if err != nil {
			return Keyring{}, fmt.Errorf("keyring, key %d: %w", i+1, err)
		}
		if i > 0 && r.keys[i-1].id >= e.id {
			return Keyring{}, errors.New("keyring is not in order")
		}
		r.keys = append(r.keys, e)
	}
	switch p, ok := r.find(doc.Primary); {
	case !ok:
		return Keyring{}, errors.New("keyring lacks its primary key")
	case doc.Used < floorStamp || doc.Used > r.keys[p].stamp:
		return Keyring{}, errors.New("keyring's primary was used before it was there")
	}
	if i, ok := r.find(Insecure.ID()); ok && (len(r.keys) > 1 || !r.Equal(NewKeyring(r.keys[i].secret))) {
		return Keyring{}, errors.New("keyring holds the public key beside others")
	}
	return r.pruned(maxKeys), nil
}

func (k documentKey) entry(primary bool) (entry, error) {
	e := entry{id: k.ID, stamp: k.Stamp, removed: k.Removed}
	if k.Stamp < floorStamp || k.Stamp > maxStamp {
		return e, errors.New("stamp out of range")
	}
	if k.Removed && !primary {
		if len(k.ID) != 2*idBytes || !isHex(k.ID) || strings.ToLower(k.ID) != k.ID || k.Secret != "" {
			return e, errors.New("removed, but not as one should be")
		}
		return e, nil
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(k.Secret)
	if err != nil || len(raw) != keyBytes {
		return e, errors.New("no secret of 32 bytes")
	}
	e.secret = newKey(raw)
	if e.secret.ID() != k.ID {
		return e, errors.New("id of another secret")
	}
	return e, nil
}
