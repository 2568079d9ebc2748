package sqlite

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// Life says which POP the file is of, and in which life. The caller keeps it
// in a file of its own beside the database, synced to the disk: where the two
// do not match, the database was copied or restored, and begins a new epoch,
// so that no number is used twice. Its zero value, but for Node, is the first
// start.
type Life struct {
	Node  string
	Epoch uint32 // the second since 1970 in which it began, or later
	Nonce string // made anew at each start and each clean end
	Clean bool   // the last end was
	Dirty bool   // writes were sealed since the last Nonce
}

// Replication is what Replicate takes.
type Replication struct {
	Life    Life
	Save    func(Life) error // has it on the disk when it returns; must not call the Store
	Now     func() int64     // mesh time, in milliseconds since 1970
	Span    func() int64     // may be nil; how many milliseconds later than Now it may be as well
	Heard   func() bool      // may be nil; whether Now rests on another POP's clock too
	Untimed func() bool      // may be nil; true while Now is not to be trusted yet: Replicate, Fold and End then seal nothing
}

// Begun says what Replicate, or the opening of a file that was replaced, found.
type Begun struct {
	Origin           crdt.Origin
	NewEpoch         bool
	Why              string // of the new epoch, or of the rows that count as written
	Adopted          int    // rows of a file that edgeproxy had not written, stamped so that any write beats them
	Edited           int    // rows that were changed while nobody looked
	Restored         int    // rows that a replaced file lacked
	TriggersRestored bool
	Crashed          int // records of a peer that were being applied when the process before ended
}

// Replicate makes the file a replica: it adds the tables and triggers that it
// lacks, adopts the rows that are there, decides on the epoch and seals what
// was written while nobody ran, once mesh time is known. From then on every
// write by anybody is captured, also while edgeproxy is down.
func (s *Store) Replicate(ctx context.Context, r Replication) (Begun, error) {
	if r.Life.Node == "" || r.Save == nil || r.Now == nil {
		return Begun{}, errors.New("replicate: Life.Node, Save and Now must be given")
	}
	s.writeMu.Lock()
	s.replica = &replica{Replication: r, batchSize: 256, mostOwned: maxOwned}
	crashed := 0
	var err error
	if s.replica.suspects, crashed, err = openSuspects(s.path + ".applying"); err != nil {
		s.writeMu.Unlock()
		return Begun{}, fmt.Errorf("open the list of what is being applied: %w", err)
	}
	s.writeMu.Unlock()
	var begun Begun
	err = s.replicating(ctx, func(p *replica) error {
		if err := s.sealTimedLocked(ctx); err != nil {
			return err
		}
		begun = *p.begun
		begun.Crashed = crashed
		begun.Edited = max(int(p.seq()-p.told)-begun.Adopted, 0)
		p.begun = nil
		return nil
	})
	if err != nil {
		s.writeMu.Lock()
		_ = s.replica.suspects.close()
		s.replica = nil
		s.writeMu.Unlock()
	}
	return begun, err
}

// Rebegun says what was found when a replaced file was taken on, once.
func (s *Store) Rebegun() (begun Begun, is bool) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if s.replica == nil || s.replica.begun == nil {
		return begun, false
	}
	begun, s.replica.begun = *s.replica.begun, nil
	return begun, true
}

// Origin is what this POP's writes are stamped with.
func (s *Store) Origin(ctx context.Context) (o crdt.Origin, err error) {
	err = s.replicating(ctx, func(p *replica) error {
		o = p.self
		return nil
	})
	return o, err
}

// End is a clean stop: it seals what was captured, where mesh time is known, and
// has the next start go on in the same epoch. Afterwards the store does not
// replicate; the triggers go on capturing.
func (s *Store) End(ctx context.Context) error {
	err := s.replicating(ctx, func(p *replica) error {
		if err := s.sealTimedLocked(ctx); err != nil {
			return err
		}
		life := p.Life
		life.Nonce, life.Clean, life.Dirty = rand.Text(), true, false
		// The file first: in between the old nonce is in Life, which costs an epoch.
		err := s.commitLocked(ctx, true, func(b *batch) error {
			return b.c.exec(b.ctx, "UPDATE crdt_control SET nonce = ? WHERE id = 1", life.Nonce)
		})
		if err != nil {
			return err
		}
		if err := p.Save(life); err != nil {
			return fmt.Errorf("end the life of %s: %w", s.path, err)
		}
		_ = p.suspects.close()
		s.replica = nil
		return nil
	})
	if errors.Is(err, errNotReplica) {
		return nil
	}
	return err
}

// dirty has it on the disk that this life seals writes, before the first one:
// from then on a copy of the file may lack some.
func (p *replica) dirty() error {
	if p.Life.Dirty {
		return nil
	}
	life := p.Life
	life.Dirty = true
	if err := p.Save(life); err != nil {
		return fmt.Errorf("save that writes are being sealed: %w", err)
	}
	p.Life = life
	return nil
}

// knownOfUsLocked begins a new epoch where a peer has writes of this one that
// the file does not: it is older than it seems, and their numbers are used.
func (s *Store) knownOfUsLocked(ctx context.Context, d crdt.Delta) error {
	p, seq := s.replica, s.replica.seq()
	ahead := func(o crdt.Origin, n uint64) bool { return o == p.self && n > seq }
	found := false
	for _, g := range d.Ranges {
		found = found || ahead(g.Origin, g.To)
	}
	for _, rec := range d.Records {
		found = found || ahead(rec.Dead.Origin, rec.Dead.Seq)
		for i := range rec.Cells {
			found = found || rec.Cells[i].Stamp.Seq > seq && ahead(rec.Cells[i].Stamp.Origin, rec.Cells[i].Stamp.Seq)
		}
	}
	if !found {
		return nil
	}
	if err := s.sealAllLocked(ctx); err != nil {
		return err
	}
	p.attached, p.outrun = false, true
	return errSwapped
}

// control is the row of crdt_control.
type control struct {
	found   bool
	node    string
	epoch   int64
	nonce   string
	version int64
}

func readControl(ctx context.Context, c *conn) (k control, err error) {
	if has, err := columnsOf(ctx, c, "crdt_control"); err != nil || len(has) == 0 {
		return k, err
	}
	k.found, err = c.one(ctx, []any{&k.node, &k.epoch, &k.nonce, &k.version}, "SELECT node, epoch, nonce, version FROM crdt_control WHERE id = 1")
	return k, err
}

// wildSecond is in 2096: a clock that is beyond it leaves room for no epochs.
const wildSecond = 4_000_000_000

// life decides in which life the file goes on, and says why in a new one.
func (p *replica) life(k control) (life Life, why string) {
	life = p.Life
	switch {
	case p.outrun:
		why = "a peer has writes of this POP that the file lacks"
	case p.ahead:
		why = "what this POP wrote alone, by a clock that ran ahead, is stamped anew"
	case !k.found && p.carried != nil:
	case !k.found && life.Epoch == 0:
		why = "first start"
	case !k.found:
		why = "the file holds no records"
	case k.node != life.Node:
		why = "the file was written by " + k.node
	case uint32(k.epoch) != life.Epoch || k.nonce != life.Nonce || p.started:
		why = "the file is a copy or a backup"
	case !life.Clean && life.Dirty:
		why = "the last end was not clean, so that this may be an earlier copy of the file"
	}
	if why != "" {
		life.Epoch++
		if k.node == life.Node {
			life.Epoch = max(life.Epoch, uint32(k.epoch)+1)
		}
		if now := p.Now() / 1000; now > 0 && now < wildSecond {
			life.Epoch = max(life.Epoch, uint32(now)) // above all that were forgotten
		}
	}
	life.Nonce, life.Clean, life.Dirty = rand.Text(), false, false
	return life, why
}
