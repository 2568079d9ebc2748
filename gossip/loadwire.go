package gossip

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

func (l Load) append(b []byte) []byte {
	b = binary.AppendUvarint(binary.AppendUvarint(b, l.Life), uint64(l.Age.Microseconds()))
	b = appendBool(binary.AppendUvarint(b, l.Seq), l.Whole)
	b = binary.AppendUvarint(b, uint64(len(l.Counts)))
	for _, id := range slices.Sorted(maps.Keys(l.Counts)) {
		b = binary.AppendUvarint(appendString(b, id), uint64(l.Counts[id]))
	}
	b = binary.AppendUvarint(b, uint64(len(l.Rates)))
	for _, r := range l.Rates {
		b = appendString(appendString(b, r.App), r.Region)
		b = binary.AppendUvarint(b, uint64(math.Round(r.Rate*1000)))
	}
	b = binary.AppendUvarint(b, uint64(len(l.Verdicts)))
	for _, id := range slices.Sorted(maps.Keys(l.Verdicts)) {
		v := l.Verdicts[id]
		b = appendBool(appendString(b, id), v.Up)
		b = appendString(binary.AppendUvarint(b, uint64(v.For.Milliseconds())), v.Why)
	}
	b = appendNames(b, l.Unchecked)
	return appendNames(b, l.Suspects)
}

func appendNames(b []byte, names []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, n := range names {
		b = appendString(b, n)
	}
	return b
}

func decodeLoad(b []byte) (l Load, err error) {
	r := &reader{b: b}
	l.Life = r.uvarint()
	l.Age = time.Duration(r.atMost("an age in µs", uint64(MaxLoadAge.Microseconds()))) * time.Microsecond
	l.Seq, l.Whole = r.uvarint(), r.bool()
	n := r.count(2)
	l.Counts = make(map[string]int64, n)
	for range n {
		id := r.name(maxLoadName)
		l.Counts[id] = int64(r.atMost("connections", MaxLoadCount))
	}
	for range r.count(3) {
		rate := LoadRate{App: r.string(maxLoadName), Region: r.string(maxLoadName)}
		rate.Rate = float64(r.atMost("connections in 1000 s", MaxLoadRate*1000)) / 1000
		l.Rates = append(l.Rates, rate)
	}
	n = r.count(4)
	l.Verdicts = make(map[string]LoadVerdict, n)
	for range n {
		id := r.name(maxLoadName)
		v := LoadVerdict{Up: r.bool()}
		v.For = time.Duration(r.atMost("ms of a verdict", uint64(MaxLoadFor.Milliseconds()))) * time.Millisecond
		v.Why = r.string(MaxLoadWhy)
		l.Verdicts[id] = v
	}
	l.Unchecked, l.Suspects = r.names(), r.names()
	if r.err == nil && len(l.Suspects) > MaxSuspects {
		r.fail(fmt.Errorf("%d suspects, at most %d are taken", len(l.Suspects), MaxSuspects))
	}
	return l, r.end("load")
}

func (r *reader) names() []string {
	var names []string
	for range r.count(2) {
		names = append(names, r.name(maxLoadName))
	}
	return names
}

// atMost is a number within a bound.
func (r *reader) atMost(what string, limit uint64) uint64 {
	v := r.uvarint()
	if r.err == nil && v > limit {
		r.fail(fmt.Errorf("%d %s, at most %d are believed", v, what, limit))
	}
	return v
}
