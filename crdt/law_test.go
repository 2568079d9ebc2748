package crdt

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var (
	someOrigin = rapid.Custom(func(t *rapid.T) Origin {
		return Origin{Node: rapid.SampledFrom([]string{"sa-1", "us-1", "eu-1"}).Draw(t, "node"), Epoch: uint32(rapid.IntRange(1, 2).Draw(t, "epoch"))}
	})
	someStamp = rapid.Custom(func(t *rapid.T) Stamp {
		return Stamp{Time: Time(rapid.Uint64Range(1, 4).Draw(t, "time")), Origin: someOrigin.Draw(t, "origin"), Seq: rapid.Uint64Range(1, 3).Draw(t, "seq")}
	})
	someValue = rapid.OneOf(
		rapid.Just(Value{}),
		rapid.Map(rapid.Int64(), IntValue),
		rapid.Map(rapid.Float64(), RealValue),
		rapid.Map(rapid.StringN(0, 8, -1), TextValue),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 8), BlobValue),
	)
	someKey = rapid.Custom(func(t *rapid.T) Key {
		return Key{Table: rapid.SampledFrom([]string{"backends", "services"}).Draw(t, "table"), PK: PK(TextValue(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "id")))}
	})
)

func recordOf(key Key) *rapid.Generator[Record] {
	return rapid.Custom(func(t *rapid.T) Record {
		rec := Record{Key: key}
		for _, column := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"app", "port", "region", "weight"}), 0, 4, rapid.ID).Draw(t, "columns") {
			rec.Cells = append(rec.Cells, Cell{Column: column, Value: someValue.Draw(t, "value"), Stamp: someStamp.Draw(t, "stamp")})
		}
		slices.SortFunc(rec.Cells, func(a, b Cell) int { return bytes.Compare([]byte(a.Column), []byte(b.Column)) })
		if len(rec.Cells) == 0 || rapid.Bool().Draw(t, "deleted") {
			rec.Dead = someStamp.Draw(t, "dead")
		}
		return rec
	})
}

// TestMergeLaws: in any order, grouping and repetition the same record comes out.
func TestMergeLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := someKey.Draw(t, "key")
		a, b, c := recordOf(key).Draw(t, "a"), recordOf(key).Draw(t, "b"), recordOf(key).Draw(t, "c")
		if ab, ba := Merge(a, b), Merge(b, a); !ab.Equal(ba) {
			t.Fatalf("not commutative:\n%v\n%v", ab, ba)
		}
		if l, r := Merge(Merge(a, b), c), Merge(a, Merge(b, c)); !l.Equal(r) {
			t.Fatalf("not associative:\n%v\n%v", l, r)
		}
		if aa := Merge(a, a); !aa.Equal(a) {
			t.Fatalf("not idempotent:\n%v\n%v", aa, a)
		}
		if m := Merge(a, b); !Merge(m, a).Equal(m) {
			t.Fatalf("what was merged changes the record again: %v", m)
		}
	})
}

// TestMergeKeepsTheLaterWrite is the rule itself, column by column.
func TestMergeKeepsTheLaterWrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := someKey.Draw(t, "key")
		a, b := recordOf(key).Draw(t, "a"), recordOf(key).Draw(t, "b")
		m := Merge(a, b)
		for _, column := range []string{"app", "port", "region", "weight"} {
			got, x, y := m.Cell(column), a.Cell(column), b.Cell(column)
			if got != x && got != y {
				t.Fatalf("%s is %v, which neither side wrote: %v, %v", column, got, x, y)
			}
			if got.Stamp.Time < x.Stamp.Time || got.Stamp.Time < y.Stamp.Time {
				t.Fatalf("%s has the earlier write: %v of %v, %v", column, got, x, y)
			}
		}
		if m.Dead != a.Dead && m.Dead != b.Dead || m.Dead.Time < max(a.Dead.Time, b.Dead.Time) {
			t.Fatalf("deleted %v of %v, %v", m.Dead, a.Dead, b.Dead)
		}
	})
}

func someDelta(t *rapid.T) (d Delta) {
	for i := range rapid.IntRange(0, 4).Draw(t, "records") {
		d.Records = append(d.Records, recordOf(someKey.Draw(t, "key")).Draw(t, fmt.Sprint("record ", i)))
	}
	for range rapid.IntRange(0, 3).Draw(t, "ranges") {
		from := rapid.Uint64().Draw(t, "from")
		d.Ranges = append(d.Ranges, Range{Origin: someOrigin.Draw(t, "origin"), From: from, To: rapid.Uint64Min(from).Draw(t, "to")})
	}
	return d
}

func TestDeltaComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := someDelta(t)
		for i, frame := range append(d.Split(40), d) {
			b := frame.Append(nil)
			got, refused, err := DecodeDelta(b)
			if err != nil || len(refused) > 0 {
				t.Fatalf("frame %d: %v %v", i, err, refused)
			}
			if !slices.Equal(got.Ranges, frame.Ranges) || !slices.EqualFunc(got.Records, frame.Records, Record.Equal) {
				t.Fatalf("frame %d came back as %v, was %v", i, got, frame)
			}
			if again := got.Append(nil); !bytes.Equal(again, b) {
				t.Fatalf("frame %d has two encodings", i)
			}
		}
	})
}

// TestConvergence drives three replicas by writes and by deltas that come
// late, twice, out of order or not at all, until everyone has asked everyone.
func TestConvergence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		replicas := []*Replica{NewReplica(Origin{Node: "sa", Epoch: 1}), NewReplica(Origin{Node: "us", Epoch: 1}), NewReplica(Origin{Node: "eu", Epoch: 2})}
		var wire []Delta
		now := Time(1)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			at := replicas[rapid.IntRange(0, 2).Draw(t, "at")]
			now += Time(rapid.IntRange(0, 2).Draw(t, "tick"))
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0, 1:
				columns := rapid.MapOfN(rapid.SampledFrom([]string{"app", "port", "weight"}), someValue, 1, 3).Draw(t, "columns")
				wire = append(wire, at.Write(someKey.Draw(t, "key"), now, columns))
			case 2:
				wire = append(wire, at.Delete(someKey.Draw(t, "key"), now))
			case 3:
				if len(wire) > 0 {
					at.Apply(rapid.SampledFrom(wire).Draw(t, "late"))
				}
			case 4:
				from := replicas[rapid.IntRange(0, 2).Draw(t, "from")]
				d, _ := from.Since(at.Heads(), rapid.IntRange(1, 400).Draw(t, "limit"))
				wire = append(wire, d)
				at.Apply(d)
			}
		}
		for range 2 {
			for _, to := range replicas {
				for _, from := range replicas {
					for more := true; more; {
						var d Delta
						d, more = from.Since(to.Heads(), 60)
						to.Apply(d)
					}
					if !to.heads.Covers(from.heads) {
						t.Fatalf("heads %v lack some of %v after a whole exchange", to.heads, from.heads)
					}
				}
			}
		}
		for _, p := range replicas[1:] {
			if !slices.EqualFunc(p.Records(), replicas[0].Records(), Record.Equal) {
				t.Fatalf("%v and %v differ:\n%v\n%v", p.self, replicas[0].self, p.Records(), replicas[0].Records())
			}
			if p.Digest() != replicas[0].Digest() || !slices.Equal(p.States(), replicas[0].States()) {
				t.Fatalf("equal rows, different digests")
			}
		}
	})
}

// TestEarlyRecordsAreInNoRange: a replica that has got a later write before an
// earlier one does not tell others that it knows both. (Found by TestConvergence,
// once in some 6,000 rounds.)
func TestEarlyRecordsAreInNoRange(t *testing.T) {
	eu, us, sa := NewReplica(Origin{Node: "eu", Epoch: 1}), NewReplica(Origin{Node: "us", Epoch: 1}), NewReplica(Origin{Node: "sa", Epoch: 1})
	key := func(id string) Key { return Key{Table: "backends", PK: PK(TextValue(id))} }
	set := map[string]Value{"port": IntValue(1)}
	first := eu.Write(key("a"), 1, set)
	eu.Write(key("b"), 2, set)
	third := eu.Write(key("c"), 3, set)
	fourth := eu.Delete(key("c"), 4)
	us.Apply(first)
	us.Apply(third)
	us.Apply(fourth) // beyond the hole where b belongs
	for _, from := range []*Replica{us, eu} {
		for more := true; more; {
			var d Delta
			d, more = from.Since(sa.Heads(), first.Records[0].Size()+1) // full at the second record
			sa.Apply(d)
		}
	}
	if _, ok := sa.Get(key("b")); !ok {
		t.Errorf("sa has heads %v and not the write in the hole", sa.Heads())
	}
}

func FuzzDecodeDelta(f *testing.F) {
	p := NewReplica(Origin{Node: "sa-1", Epoch: 1})
	key := Key{Table: "backends", PK: PK(TextValue("sa-node-1"))}
	d := p.Write(key, At(1700000000000), map[string]Value{"app": TextValue("myapp"), "port": IntValue(8080), "weight": RealValue(1.5), "x": BlobValue([]byte{0})})
	f.Add(d.Append(nil))
	f.Add(p.Delete(key, At(1700000000001)).Append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, _, err := DecodeDelta(b)
		if err != nil {
			return
		}
		again, refused, err := DecodeDelta(d.Append(nil))
		if err != nil || len(refused) > 0 || !slices.EqualFunc(again.Records, d.Records, Record.Equal) || !slices.Equal(again.Ranges, d.Ranges) {
			t.Fatalf("what was read does not come back: %v %v\n%v\n%v", err, refused, d, again)
		}
	})
}
