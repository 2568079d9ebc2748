package node

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
)

const (
	releaseEvery = 500 * time.Millisecond // records from the future whose time may have come, and POPs that are forgotten
	checkEvery   = time.Minute            // triggers, rows against their stamps, deletes that everybody has seen
	checkAgain   = 5 * time.Second        // while records are damaged that other POPs have
)

// tidy does what is due now and then, until ctx ends. The first check is at
// once: a row may have been damaged while nobody ran.
func (m *replication) tidy(ctx context.Context) {
	release, check := time.NewTicker(releaseEvery), time.NewTimer(0)
	defer release.Stop()
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-release.C:
			for _, pop := range m.pins.forgotten() {
				m.forgotten(pop)
			}
			if m.untimed() { // this would seal what was written here; so would the check
				continue
			}
			applied, err := m.store.Release(ctx)
			m.applied("quarantine", applied)
			m.complain(ctx, "records in quarantine", err)
		case <-check.C:
			if m.untimed() {
				check.Reset(releaseEvery)
				continue
			}
			next := checkEvery
			if damaged := m.check(ctx); damaged && m.expectsPeers() {
				m.streams.Compare(ctx)
				next = checkAgain
			}
			m.collect(ctx)
			check.Reset(next)
		}
	}
}

// check compares the rows with their stamps. What somebody wrote behind the
// triggers' back counts as written now; what is damaged comes from the peers,
// and true says that something still has to.
func (m *replication) check(ctx context.Context) (damaged bool) {
	found, err := m.store.Check(ctx)
	if found.TriggersRestored {
		m.mended(fmt.Sprintf("triggers were missing or changed: put back; %d rows that differed count as written now", found.Edited))
	}
	for _, key := range found.Restored {
		m.mended(shortName(key) + " was damaged: set to what its record says")
	}
	for _, key := range found.Damaged {
		if !slices.Contains(m.damaged, key) {
			m.mended(shortName(key) + ": its record is damaged; the other POPs have it")
		}
	}
	m.damaged = found.Damaged
	for _, key := range found.Unshown {
		m.log.Warn().Str("row", shortName(key)).Msg("record kept and passed on, but the table's own constraints refuse the row")
	}
	m.unfit(found.Unfit)
	if len(found.Restored) > 0 {
		m.picture.poke()
	}
	m.complain(ctx, "minute check", err)
	return len(found.Damaged) > 0
}

// unfit names the rows that stay on this POP, when they are others than at the last check.
func (m *replication) unfit(rows []crdt.Refusal) {
	if slices.EqualFunc(rows, m.local, func(a, b crdt.Refusal) bool { return a.Key == b.Key && a.Err.Error() == b.Err.Error() }) {
		return
	}
	m.local = rows
	for _, r := range rows {
		m.log.Warn().Str("row", shortName(r.Key)).Err(r.Err).Msg("row stays on this POP: no other would take it")
	}
}

func (m *replication) mended(what string) {
	m.log.Warn().Str("what", what).Msg("minute check")
	m.repairs.add(what)
}

// agreement is what everybody has confirmed, and up to where anybody was known
// to have writes then.
type agreement struct {
	confirmed, known crdt.Heads
	rounds           int // that have gone by since
}

// patientRounds is for how many checks what somebody says to have is waited for.
const patientRounds = 10

// next is what may be forgotten now: what everybody had confirmed at an earlier
// check, and still does, once all is here that anybody had then. So a state of
// such a row that is still on its way is known for an earlier one.
func (a *agreement) next(confirmed, known, own crdt.Heads) (forget crdt.Heads) {
	a.rounds++
	if a.confirmed != nil && !own.Covers(a.known) && a.rounds < patientRounds {
		return nil
	}
	if forget = a.confirmed; forget != nil {
		forget.Lower(confirmed)
	}
	*a = agreement{confirmed: confirmed.Clone(), known: known}
	return forget
}

// collect forgets the deletes that everybody on the roster has seen.
func (m *replication) collect(ctx context.Context) {
	confirmed, ok := m.streams.Confirmed(ctx, m.roster.names())
	if !ok {
		return
	}
	own, err := m.store.Heads(ctx)
	if err != nil {
		m.complain(ctx, "collect deletes", err)
		return
	}
	forget := m.agreed.next(confirmed, m.streams.Known(), own)
	if forget == nil {
		return
	}
	n, err := m.store.Collect(ctx, forget)
	if n > 0 {
		m.log.Debug().Int("rows", n).Msg("deletes forgotten: every POP has seen them")
	}
	m.complain(ctx, "collect deletes", err)
}

func (m *replication) complain(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil {
		m.log.Warn().Str("what", what).Err(err).Msg("tried again later")
	}
}

// repairLog keeps the last things that the checks found and mended.
type repairLog struct {
	mu    sync.Mutex
	lines []string
}

const maxRepairs = 20

func (l *repairLog) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, time.Now().UTC().Format(time.RFC3339)+" "+line)
	l.lines = l.lines[max(0, len(l.lines)-maxRepairs):]
}

func (l *repairLog) list() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

// positionsOf are the regions' positions as their POPs give them: the middle
// of those that give one.
func positionsOf(members []membership.Member) map[geo.Region]geo.Vector {
	sums := map[geo.Region]geo.Vector{}
	for _, m := range members {
		at, err := parsePosition(m.Tags[tagPosition])
		region := geo.Region(m.Tags[tagRegion])
		if m.Status != membership.StatusAlive || region == "" || err != nil {
			continue
		}
		v, sum := at.Vector(), sums[region]
		sums[region] = geo.Vector{X: sum.X + v.X, Y: sum.Y + v.Y, Z: sum.Z + v.Z}
	}
	for region, v := range sums {
		length := math.Sqrt(v.X*v.X + v.Y*v.Y + v.Z*v.Z)
		if length < 1e-9 { // opposite each other: nowhere
			delete(sums, region)
			continue
		}
		sums[region] = geo.Vector{X: v.X / length, Y: v.Y / length, Z: v.Z / length}
	}
	return sums
}

func parsePosition(text string) (geo.Position, error) {
	lat, lon, _ := strings.Cut(text, ",")
	la, err1 := strconv.ParseFloat(lat, 64)
	lo, err2 := strconv.ParseFloat(lon, 64)
	if err1 != nil || err2 != nil || !(math.Abs(la) <= 90 && math.Abs(lo) <= 180) {
		return geo.Position{}, fmt.Errorf("position %q", text)
	}
	return geo.Position{Lat: la, Lon: lo}, nil
}
