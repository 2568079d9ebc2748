package clustertests

import (
	wire "encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/crdt"
)

// claims is a frame with a row as the traitor says that it wrote it at a time.
func (x *traitor) claims(node, id string, seq uint64, ms int64, weight int64) []byte {
	stamp := crdt.Stamp{Time: crdt.At(ms), Origin: crdt.Origin{Node: node, Epoch: 1}, Seq: seq}
	rec := crdt.Record{Key: crdt.Key{Table: "backends", PK: crdt.PK(crdt.TextValue(id))}}
	for _, column := range []struct {
		name  string
		value crdt.Value
	}{{"app", crdt.TextValue("evil")}, {"weight", crdt.IntValue(weight)}} {
		rec.Cells = append(rec.Cells, crdt.Cell{Column: column.name, Value: column.value, Stamp: stamp})
	}
	d := crdt.Delta{Ranges: []crdt.Range{{Origin: stamp.Origin, From: seq - 1, To: seq}}, Records: []crdt.Record{rec}}
	return frame(2, d.Append(append(wire.AppendUvarint(nil, 0), 0, 0))) // of no pull, no snapshot, no repair
}

// TestStampFrom2262: what somebody with the key stamps in the year 2262, or as
// late as can be stored, is kept apart by all, named, and its rows stay
// writable at once, also after restarts. What is stamped later still is refused.
func TestStampFrom2262(t *testing.T) {
	needs(t, "long") // three POPs, restarted
	t.Parallel()
	const year2262, year6429, tooLate = 9_223_372_036_854, 1<<47 - 1, 1<<48 - 1
	m := newMesh(t, 3)
	p := m.pops[0]
	p.sql(t, insert(at("known", "sa", refusing(t))))
	settle(t, converged, m.pops...)

	evil := newTraitor(t, m.key, "evil")
	what := evil.hello("evil")
	for i, x := range []struct {
		id string
		ms int64
	}{{"known", year2262}, {"new", year2262}, {"end", year6429}, {"never", tooLate}} {
		what = append(what, evil.claims("evil", x.id, uint64(i+1), x.ms, int64(1000+i))...)
	}
	if err := evil.throw(p, what, false); err != nil {
		t.Fatal(err)
	}
	waiting := func() error {
		for _, p := range m.pops {
			list, err := look[[]api.Quarantined](p, "quarantine")
			if err != nil {
				return err
			}
			names := ""
			for _, q := range list {
				names += " " + q.Row + " " + q.Time.Format("2006-01-02") + " " + q.Reason
			}
			for _, want := range []string{"backends/known 2262-04-11", "backends/new 2262-04-11", "backends/end 6429-10-17", "evil/1: check its clock"} {
				if !strings.Contains(names, want) {
					return fmt.Errorf("%s keeps apart%s, want %s", p.Node, names, want)
				}
			}
			st, err := look[api.Status](p, "status")
			if err == nil && st.Records.Quarantined != 3 {
				err = fmt.Errorf("%s: %d rows wait", p.Node, st.Records.Quarantined)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	eventually(t, soon, waiting)
	writable := func(round int) {
		t.Helper()
		for i, p := range m.pops {
			weight := 10*round + i + 1
			p.sql(t, fmt.Sprintf("UPDATE backends SET weight=%d WHERE id IN ('known','new','end')", weight))
			everywhere(t, "SELECT DISTINCT weight FROM backends WHERE id IN ('known','new','end') AND app IS NOT 'evil'", fmt.Sprint(weight), m.pops...)
		}
		settle(t, converged, m.pops...)
	}
	p.sql(t, insert(at("new", "sa", refusing(t)), at("end", "sa", refusing(t))))
	settle(t, converged, m.pops...)
	writable(1)
	for _, p := range m.pops {
		p.stop(t)
		p.start(t)
	}
	together(t, m.pops...)
	eventually(t, soon, waiting)
	writable(2)
	for _, row := range []string{"backends/known", "backends/new", "backends/end"} {
		if err := p.do("records", "quarantine", "drop", row); err != nil {
			t.Error(err)
		}
	}
	writable(3)
}
