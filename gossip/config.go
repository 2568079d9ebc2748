package gossip

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/identity"
)

// Config says who this POP is and what it works with. Node, Nonce, Credentials
// and Store must be given; what else is zero takes the default beside it.
type Config struct {
	Node        string                // this POP's id, as in its certificate
	Nonce       string                // of this life of the process, greater than those of earlier ones: of two nodes of one id the later gives way
	Credentials *identity.Credentials // both sides of every stream prove themselves
	Store       Store

	// LoadSeq is that of an earlier Mesh of this process, of which peers know
	// loads that those of this one must follow.
	LoadSeq uint64

	// Dial opens a stream to a peer's sync address. Default: TCP with keepalive.
	Dial func(ctx context.Context, addr string) (net.Conn, error)

	// Via says where Dial reaches a peer's sync address: the lab puts a relay
	// between, which it can cut. nil: at that address.
	Via func(addr string) string

	// Keyring is the document to announce, at most identity.MaxKeyring bytes,
	// and MergeKeyring takes a peer's, whatever it holds. Both may be nil. Where
	// a merge changes Keyring, the other peers are told without further ado.
	Keyring      func() []byte
	MergeKeyring func(document []byte) error

	// Admit refuses a peer that the mesh's key lets in, by an error that both
	// sides log. nil: everybody is admitted. It must not block.
	Admit func(Hello) error

	// Applied hears what came from whom, in order, after it was stored. The
	// next delta waits for it. It may be nil.
	Applied func(peer string, a crdt.Applied)

	// Tables are those that records of Store may be of, in any order that stays.
	// nil: peers are not told, and keep nothing of tables that they do not know.
	Tables func() []string

	// WholeLoad is this POP's load, for a peer whose stream begins, and TookLoad
	// hears a peer's. They must not block, nor call the Mesh. Both may be nil.
	WholeLoad func() Load
	TookLoad  func(peer string, l Load)

	// TookNote hears what a peer told this POP alone; it must not block. An error
	// says that it makes no sense, and is counted. It may be nil.
	TookNote func(peer string, n Note) error

	// Conflict hears that a node id is used by two live nodes. Its own id is
	// this POP's. Called at every encounter; must not block. It may be nil.
	Conflict func(Conflict)

	Now  func() time.Time // this machine's clock, which may be wrong and be set; default time.Now
	Rand func() float64   // in [0, 1), safe for concurrent use; default math/rand/v2

	// FanoutLimit is up to how many POPs, this one too, hold a stream with every
	// other one. Above, each has some neighbours (package overlay). 32
	FanoutLimit int
	// Life is the number of this process, greater than that of any earlier one;
	// default: the clock. It is that of the loads.
	Life uint64

	Flush       time.Duration // least time between two flushes to a peer; 10 ms
	Ack         time.Duration // least time between two announcements of our heads to a peer; 100 ms
	Grace       time.Duration // a peer's announcement is older than this before we pull, as it may be on its way; 200 ms
	Ping        time.Duration // 5 s
	Dead        time.Duration // a stream on which nothing came for so long has ended; 15 s
	Write       time.Duration // a stream that does not take a frame for so long has ended; 30 s
	Handshake   time.Duration // from connecting to the peer's hello; 5 s
	AntiEntropy time.Duration // ± 50 %; 10 s
	Digest      time.Duration // ± 50 %; 1 min
	Stray       time.Duration // ± 50 %; above FanoutLimit, how often some POP that is no neighbour is asked what it has; 1 min
	Forget      time.Duration // a peer is disconnected when SetPeers has left it out for so long; 30 s

	FrameBytes int // of a delta, about; 64 KiB
	MaxFrame   int // a longer one ends its stream; 1 MiB
	QueueKeys  int // rows that wait for one peer; beyond, it is left to pull them; 16384
	Handshakes int // at once, of those who dial us; 64
}

// Hello is what a peer proved and said of itself.
type Hello struct {
	Node  string
	Key   ed25519.PublicKey // its own: a known node's does not change
	Nonce string
	Addr  string // where the stream comes from, or the address that was dialed
}

// Conflict is a node id with two live nodes behind it, as with a copied disk.
type Conflict struct {
	Node  string
	Addr  string // where the other was met
	Later bool   // Node is this POP's, and the other was there first
}

const (
	laterDial   = 2 * time.Second        // head start of the smaller id
	firstRetry  = 100 * time.Millisecond // after a lost stream or a failed dial,
	lastRetry   = 5 * time.Second        // doubling up to this
	goodbye     = time.Second            // for the last flush
	probeWait   = 2 * time.Second        // for an old stream to prove that it lives
	pullTimeout = time.Minute            // without any part of the answer
	pullStalled = 2 * time.Second        // another peer's answer, that we would rather wait for
	inboxBytes  = 256 << 10              // of a peer's frames that wait to be stored
	maxControl  = 64                     // small frames that wait to be sent to a peer
	maxHeads    = 1 << 16                // origins that a peer may say it has writes of
	maxSeen     = 4 << 20                // keys of a snapshot that are remembered for the purge
	fullFor     = time.Minute            // a peer that has neighbours enough is not asked again
	// originsAtOnce are in one prune or graft.
	originsAtOnce = 1024
)

// zeroOr sets what is zero to its default.
func zeroOr[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (c *Config) defaults() {
	if c.Dial == nil {
		d := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
		c.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	if c.Via == nil {
		c.Via = func(addr string) string { return addr }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	zeroOr(&c.FanoutLimit, 32)
	zeroOr(&c.Life, uint64(max(1, c.Now().UnixNano())))
	zeroOr(&c.Flush, 10*time.Millisecond)
	zeroOr(&c.Ack, 100*time.Millisecond)
	zeroOr(&c.Grace, 200*time.Millisecond)
	zeroOr(&c.Ping, 5*time.Second)
	zeroOr(&c.Dead, 15*time.Second)
	zeroOr(&c.Write, 30*time.Second)
	zeroOr(&c.Handshake, 5*time.Second)
	zeroOr(&c.AntiEntropy, 10*time.Second)
	zeroOr(&c.Digest, time.Minute)
	zeroOr(&c.Stray, time.Minute)
	zeroOr(&c.Forget, 30*time.Second)
	zeroOr(&c.FrameBytes, 64<<10)
	zeroOr(&c.MaxFrame, 1<<20)
	zeroOr(&c.QueueKeys, 16384)
	zeroOr(&c.Handshakes, 64)
}

func (c *Config) validate() error {
	var problems []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			problems = append(problems, fmt.Errorf("gossip: "+format, args...))
		}
	}
	bad(c.Node == "" || len(c.Node) > crdt.MaxName, "node %q: want 1 to %d bytes", c.Node, crdt.MaxName)
	bad(c.Nonce == "" || len(c.Nonce) > maxNonce, "nonce %q: want 1 to %d bytes, new at each start", c.Nonce, maxNonce)
	bad(c.Credentials == nil, "no credentials")
	bad(c.Credentials != nil && c.Credentials.Node() != c.Node, "node %q has the credentials of another", c.Node)
	bad(c.Store == nil, "no store")
	bad((c.Keyring == nil) != (c.MergeKeyring == nil), "give both Keyring and MergeKeyring, or neither")
	bad(c.FrameBytes < 0 || c.MaxFrame < 2*c.FrameBytes+2*crdt.MaxRecord, "frames of %d bytes leave no room in %d: want twice as much, and two records", c.FrameBytes, c.MaxFrame)
	bad(c.Dead <= c.Ping, "dead after %s, but pinged only each %s", c.Dead, c.Ping)
	bad(c.FanoutLimit < 2, "a full mesh of up to %d POPs: want at least 2", c.FanoutLimit)
	bad(c.QueueKeys < 1 || c.Handshakes < 1, "a queue of %d keys, %d handshakes: want at least 1", c.QueueKeys, c.Handshakes)
	return errors.Join(problems...)
}
