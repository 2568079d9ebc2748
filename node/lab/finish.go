package lab

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// finish ends what the story has begun, while clients still come: heals a cut,
// and waits for the backends that are to take clients again.
func (s *story) finish(ctx context.Context) {
	if s.crossing != nil && ctx.Err() == nil {
		if err := s.play(ctx, Step{Verb: "heal"}); err != nil {
			s.verdict("the cut heals at the end", false, "%v", err)
		}
	}
	for region := range maps.Clone(s.drained) {
		s.judgeDrain(region)
	}
	if _, err := until(ctx, 2*mostWait, func() bool { return s.returned(ctx) }); err == nil || ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	left := slices.Sorted(maps.Keys(s.back))
	s.mu.Unlock()
	for _, id := range left {
		s.verdict(id+" takes clients again", false, "not after %s", 2*mostWait)
	}
}

// equal waits until all routing.db hold the same, and looks up in each
// everything that was written.
func (s *story) equal(ctx context.Context) {
	pops := s.world.allPOPs()
	var differ []string
	// A write that its own POP has not sealed yet is in no digest: equal ones
	// before it is sent say nothing.
	took, err := until(ctx, mostWait, func() bool {
		differ = s.lacking(ctx, pops)
		return len(differ) == 0 && len(digests(ctx, pops)) == 1
	})
	if ctx.Err() != nil {
		return
	}
	all := digests(ctx, pops)
	s.verdict("all routing.db are equal at the end", err == nil || len(all) == 1, "%d POPs, digests %s, after %s",
		len(pops), strings.Join(slices.Sorted(maps.Keys(all)), " "), took.Round(time.Millisecond))

	detail := fmt.Sprintf("%d writes, looked up on %d POPs", s.world.ledger.writes(), len(pops))
	s.verdict("no write was lost", len(differ) == 0, "%s", strings.Join(append([]string{detail}, differ...), "; "))
}

// lacking says what of all that was written stands otherwise on which POP.
func (s *story) lacking(ctx context.Context, pops []*pop) []string {
	var differ []string
	for _, p := range pops {
		diff, err := s.world.ledger.differs(ctx, p.db)
		if err != nil {
			diff = err.Error()
		}
		if diff != "" {
			differ = append(differ, fmt.Sprintf("on %s %s", p.name, diff))
		}
	}
	return differ
}

// digests are those of the POPs, each with how many have it; one that still
// lacks something, or does not answer, has one of its own.
func digests(ctx context.Context, pops []*pop) map[string]int {
	all := map[string]int{}
	for _, p := range pops {
		st, err := p.node.Status(ctx)
		digest := st.Records.Digest
		if len(digest) > 16 {
			digest = digest[:16]
		}
		switch {
		case err != nil || digest == "":
			digest = p.name + ":" + fmt.Sprint(err)
		case st.Records.Missing > 0 || st.Records.Quarantined > 0:
			digest = fmt.Sprintf("%s:lacks %d", p.name, st.Records.Missing)
		}
		all[digest]++
	}
	return all
}
