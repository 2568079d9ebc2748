package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/internal/progress"
)

// tooFar is how far ahead of mesh time a stamp may be that is merged.
const tooFar = 500 // ms

// replica is what a store knows of its records besides the file: writeMu
// guards it. What it has of the file is read anew after a transaction that
// failed, and where the file has another version than we left it with.
type replica struct {
	Replication
	attached bool   // the file is open as this replica's
	started  bool   // it was before
	doubt    bool   // what follows may not be what is in the file
	begun    *Begun // what the caller has not been told
	schema   int64  // version of the file's schema when the triggers were last seen to be in place
	outrun   bool   // a peer has writes of ours that the file lacks
	met      bool   // another POP was heard since Replicate
	ahead    bool   // what we wrote alone is to be stamped anew
	carried  *carried

	names
	tables    []*tracked
	self      crdt.Origin
	version   int64
	clock     crdt.Clock
	heads     crdt.Heads // our own head is the number of our latest write
	horizon   crdt.Heads
	headBytes int    // of heads, at most; 0: to be summed up
	told      uint64 // our latest write that Fold has returned

	foreign map[string]int // bytes of records by table, of those that are not ours

	sum              crdt.Sum
	rows, dead, held int
	heldUntil        crdt.Time // the earliest time in the quarantine
	states           []crdt.Sum
	statesOf         int64      // the version that states are of
	statesAbove      crdt.Heads // and their horizon
	batchSize        int        // records in one transaction of Apply
	suspects         *suspects  // nil where its file cannot be kept
	mostOwned        int        // records of one other POP
	crowds           map[string]*crowd
}

func (p *replica) seq() uint64 { return p.heads[p.self] }

// alone says that no other POP's write is known.
func (p *replica) alone() bool {
	for origin := range p.heads {
		if origin.Node != p.self.Node {
			return false
		}
	}
	return true
}

// table finds a table by its name, nil where there is none.
func (p *replica) table(name string) *tracked {
	for _, t := range p.tables {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// limit is the latest time that is merged now.
func (p *replica) limit() crdt.Time {
	if p.Span == nil {
		return p.limitBeside()
	}
	return crdt.At(p.Now() + tooFar + p.Span())
}

// limitBeside is so for those who take no part of Span: POPs that come later.
func (p *replica) limitBeside() crdt.Time { return crdt.At(p.Now() + tooFar) }

var (
	errNotReplica = errors.New("the store does not replicate: call Replicate first")
	errSwapped    = errors.New("the file's content was replaced")
	errPending    = errors.New("there are local writes to be sealed first")
)

// replicating runs fn with the file open, attached and nobody else writing
// through this store.
func (s *Store) replicating(ctx context.Context, fn func(p *replica) error) error {
	for {
		s.steady(ctx)
		if err := s.readyToWrite(ctx); err != nil {
			return err
		}
		open, err := s.whileOpen(ctx, fn)
		if !open {
			continue // closed in between: readyToWrite knows why
		}
		if err != nil && unusable(err) {
			s.Reopen()
		}
		return err
	}
}

// steady waits while somebody writes another file over ours, which is to be
// opened once it is whole.
func (s *Store) steady(ctx context.Context) {
	const between = 15 * time.Millisecond
	var last identity
	for {
		now, err := identify(s.path)
		s.mu.Lock()
		same := err != nil || now == s.opened || now == last || !now.sameFile(s.opened)
		s.mu.Unlock()
		if same {
			return
		}
		last = now
		select {
		case <-ctx.Done():
			return
		case <-time.After(between):
		}
	}
}

func (s *Store) whileOpen(ctx context.Context, fn func(p *replica) error) (open bool, err error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	progress.Step(ctx)
	if s.writer == nil {
		return false, nil
	}
	p := s.replica
	if p == nil {
		return true, errNotReplica
	}
	defer s.tellLocked(p)
	for try := 0; ; try++ {
		if !p.attached {
			if err := s.attachLocked(ctx, p); err != nil {
				return true, err
			}
		}
		if err = fn(p); !errors.Is(err, errSwapped) || try == 1 {
			return true, err
		}
	}
}

// batch is one transaction over records.
type batch struct {
	*replica
	ctx        context.Context
	c          *conn
	puts       []change
	sum        crdt.Sum
	rows       int
	dead       int
	moved      map[crdt.Origin]bool // heads and horizons to be written
	hadUnfit   bool
	sealLimit  crdt.Time         // limit, as seal asked for it
	damaged    map[crdt.Key]bool // records that get could not read
	foreignNow map[string]int    // what it adds to foreign
	mended     bool              // one of them was written anew
}

// commitLocked runs fn in one transaction with the triggers silent. A durable
// one is on the disk when it returns; the log is synced after the commit, not
// within it, so that nobody finds the file locked for as long as the disk takes.
func (s *Store) commitLocked(ctx context.Context, durable bool, fn func(b *batch) error) error {
	p := s.replica
	if err := s.writer.durable(ctx, false); err != nil {
		return s.explain("write", err)
	}
	b := &batch{replica: p, ctx: context.WithoutCancel(ctx), c: s.writer, moved: map[crdt.Origin]bool{}}
	entered := false
	err := s.writeLocked(ctx, func(*Tx) error {
		entered = true
		if err := b.begin(); err != nil {
			return err
		}
		if err := fn(b); err != nil {
			return err
		}
		return b.end()
	})
	if err != nil && entered {
		// What it has of the file in memory may not be in the file.
		p.attached = errors.Is(err, errPending)
		p.doubt = p.doubt || !p.attached
	}
	if err != nil {
		return err
	}
	p.version++
	for table, bytes := range b.foreignNow {
		p.foreign[table] += bytes
	}
	p.sum, p.rows, p.dead = p.sum.Plus(b.sum), p.rows+b.rows, p.dead+b.dead
	if b.mended { // its values may have been in the sums
		p.attached, p.doubt = false, true
	}
	if durable {
		if err := syncFile(s.log); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write %s: %w", s.path, err)
		}
	}
	return nil
}

func (b *batch) begin() error {
	var nonce string
	var version int64
	found, err := b.c.one(b.ctx, []any{&nonce, &version}, "SELECT nonce, version FROM crdt_control WHERE id = 1")
	if err != nil || !found || nonce != b.Life.Nonce || version != b.version {
		if err == nil || resultCode(err) == codeError {
			return errSwapped // the table itself may be gone
		}
		return err
	}
	return b.c.exec(b.ctx, "UPDATE crdt_control SET applying = 1 WHERE id = 1")
}

func (b *batch) end() error {
	if err := b.flush(); err != nil {
		return err
	}
	for o := range b.moved {
		id, err := b.origin(o)
		if err != nil {
			return err
		}
		if err := b.c.exec(b.ctx, "UPDATE crdt_origins SET head = ?, collected = ? WHERE id = ?", int64(b.heads[o]), int64(b.horizon[o]), id); err != nil {
			return err
		}
	}
	return b.c.exec(b.ctx, "UPDATE crdt_control SET applying = 0, version = ?, clock = ? WHERE id = 1", b.version+1, int64(b.clock.Last))
}

// origin interns an origin.
func (b *batch) origin(o crdt.Origin) (int64, error) {
	if id, ok := b.originIDs[o]; ok {
		return id, nil
	}
	id := int64(len(b.origins))
	b.addOrigin(id, o)
	return id, b.c.exec(b.ctx, "INSERT INTO crdt_origins (id, node, epoch) VALUES (?, ?, ?)", id, o.Node, int64(o.Epoch))
}

// name interns a table's or a column's name.
func (b *batch) name(name string) (int64, error) {
	if id, ok := b.ids[name]; ok {
		return id, nil
	}
	id := int64(len(b.names.names))
	b.addName(id, name)
	return id, b.c.exec(b.ctx, "INSERT INTO crdt_names (id, name) VALUES (?, ?)", id, name)
}

// adapt chooses how many records the next transaction takes, so that it holds
// the file for about 10 ms: a bare sqlite3 does not wait at all.
func (p *replica) adapt(n int, took time.Duration) {
	const aim = 8 * time.Millisecond
	if took > 0 && (n >= p.batchSize || took > aim) {
		p.batchSize = min(max(int(float64(n)*float64(aim)/float64(took)), 32), p.batchSize*2, 2000)
	}
}
