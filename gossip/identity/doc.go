// Package identity says who may speak in a mesh and who is speaking: cluster
// keys, the certificates that follow from them, and TLS made of both.
//
//	key, err := identity.ParseKey(text)                          // EDGEPROXY_CLUSTER_KEY, or identity.Insecure
//	node, made, err := identity.LoadNode(db + ".key")            // this POP's Ed25519 key, made once
//	ring, start, err := identity.OpenKeyring(db+".keys", key, now)
//	creds, err := identity.NewCredentials("sa-1", node, ring)
//
//	in := tls.Server(conn, creds.ServerTLS())
//	out := tls.Client(conn, creds.ClientTLS("us-1"))             // a new config for each dial
//	err = identity.Explain(out.HandshakeContext(ctx))            // ErrNoCommonKey, where that is why
//	peer, err := identity.PeerOf(out.ConnectionState())          // node id, its public key, cluster key id
//
//	ring, err = creds.Keyring().Add(next, now)                   // keys add; then Use, then Remove
//	ring = ring.Merge(theirs); err = creds.SetKeyring(ring)      // and ring.Save(db + ".keys")
//
// Membership is one secret. From a cluster key every node derives the same
// Ed25519 CA (HKDF-SHA256) and signs its own certificate with it, so who holds
// the key is a member. A node is its own Ed25519 key, the certificate's; that
// a known id keeps its key (pinning) is the caller's to check, with Peer.Key.
//
// Invariants:
//   - TLS 1.3 only, both sides verified, no resumption. Certificates are verified
//     at one fixed time: a wrong clock locks nobody out, and nothing expires.
//   - A certificate counts only under the CA of the cluster key that the two
//     sides negotiated. The client shows its own to a verified server only.
//   - Two nodes connect if and only if their keyrings share a live key. A
//     server that shares none answers with an alert and nothing else.
//   - A keyring always has a primary key, and merging keyrings is commutative,
//     associative and idempotent.
//   - No error and no printed value holds a secret. Encode, Save and Gossip give it away.
//
// In TLS 1.3 a server refuses a client's certificate after the client's
// Handshake has returned: the client learns it from its first Read.
//
// What others see: the ClientHello names in clear the ids of the cluster keys
// that the client accepts. They tell which nodes share a mesh and that a
// rotation goes on, and nothing about the keys. Who repeats such an id to a
// server is shown its certificate (node id, public key), and nothing after it.
// Certificates, and with them node ids, are encrypted otherwise.
//
// What it does not do: it opens no socket and reads no clock; it decides
// nothing about node ids that are used twice; it does not revoke one node (make
// a new cluster key) and cuts no connection that stands when its key is removed.
package identity
