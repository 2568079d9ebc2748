package sqlite

import (
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// TestOwnRow: in wg_pops each POP writes its own row only. What somebody writes
// into another's stays where it was written, and everybody's deletes hold.
func TestOwnRow(t *testing.T) {
	sa, us, eu := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us"), newPop(t, newPath(t), "eu")
	const keys = "SELECT group_concat(node || '=' || public_key, ' ') FROM (SELECT * FROM wg_pops ORDER BY node)"
	raw(t, sa.path, "INSERT INTO wg_pops (node, public_key) VALUES ('sa', 'A')")
	sa.fold()
	us.pull(sa, 1000)
	eu.pull(sa, 1000)

	raw(t, us.path, "UPDATE wg_pops SET public_key = 'mine' WHERE node = 'sa'", "INSERT INTO wg_pops (node, public_key) VALUES ('us', 'U')")
	us.fold()
	eu.pull(us, 1000)
	if got := cell(t, eu.path, keys); got != "sa=A us=U" {
		t.Errorf("eu has %q", got)
	}
	if f := us.check(); len(f.Unfit) != 1 || !strings.Contains(f.Unfit[0].Err.Error(), "each POP writes its own row") {
		t.Errorf("us says %v of the row that it wrote for sa", f.Unfit)
	}

	// A POP whose code does not keep to that is refused where its record arrives.
	lieKey := crdt.Key{Table: WGPops.Name, PK: crdt.PK(crdt.TextValue("sa"))}
	origin := crdt.Origin{Node: "us", Epoch: 1}
	lie := crdt.Record{Key: lieKey,
		Cells: []crdt.Cell{{Column: "public_key", Value: crdt.TextValue("mine"), Stamp: crdt.Stamp{Time: eu.all()[lieKey].Latest() + 1, Origin: origin, Seq: 9}}}}
	a, err := eu.Apply(t.Context(), "us", crdt.Delta{Ranges: []crdt.Range{{Origin: origin, From: 0, To: 9}}, Records: []crdt.Record{lie}})
	if err != nil || len(a.Refused) != 1 || !strings.Contains(a.Refused[0].Err.Error(), "each POP writes its own row") {
		t.Errorf("a lie about sa: %+v, %v", a, err)
	}

	raw(t, eu.path, "DELETE FROM wg_pops WHERE node = 'sa'")
	eu.fold()
	sa.pull(eu, 1000)
	if got := cell(t, sa.path, keys); got != "us=U" {
		t.Errorf("sa has %q after eu has deleted its row", got)
	}
}
