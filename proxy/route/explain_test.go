package route

import (
	"fmt"
	"math"
	"testing"

	"github.com/edgeproxy/edgeproxy/geo"
)

func TestExplain(t *testing.T) {
	r := newRouter(snapshot("us",
		backend("sa-1", "sa", weight(2), hard(100)), backend("sa-2", "sa", soft(10)), backend("us-1", "us"),
		backend("eu-1", "eu", draining), backend("other", "sa", app("other")), backend("sa-3", "sa", deleted)))
	r.load("sa-1", 100)
	r.load("sa-2", 5)
	r.load("us-1", 25)
	brazil, _ := countries.Place("BR")
	frankfurt, _ := geo.RegionPosition("eu")
	far := 2 + brazil.At.Distance(frankfurt.Vector())/20_000
	got := r.Explain(from("br"), noon, 1)
	want := Explanation{
		Client: "200.160.2.3", Country: "BR", Region: "sa", App: "myapp", Chosen: "sa-2", Reason: "client_region",
		Candidates: []Candidate{
			{ID: "sa-3", Region: "sa", Tier: 0, Connections: 0, Own: 0, LoadFactor: 0, Weight: 1, Score: 0, Excluded: "deleted"},
			{ID: "sa-2", Region: "sa", Tier: 0, Connections: 5, Own: 5, LoadFactor: 0.5, Weight: 1, Score: 0.5},
			{ID: "sa-1", Region: "sa", Tier: 0, Connections: 100, Own: 100, LoadFactor: 2, Weight: 2, Score: 1, Excluded: "full"},
			{ID: "us-1", Region: "us", Tier: 1, Connections: 25, Own: 25, LoadFactor: 0.5, Weight: 1, Score: 100.5},
			{ID: "eu-1", Region: "eu", Tier: 2, Connections: 0, Own: 0, LoadFactor: 0, Weight: 1, Score: 100 * far, Excluded: "draining"},
		},
	}
	for i := range want.Candidates {
		if i < len(got.Candidates) && math.Abs(got.Candidates[i].Score-want.Candidates[i].Score) < 1e-9 {
			got.Candidates[i].Score = want.Candidates[i].Score
		}
	}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("\n%+v, want\n%+v", got, want)
	}
	for _, id := range []string{"sa-1", "sa-2", "us-1"} {
		if st := r.Slots.Get(id).Stats(); st.Picks != [tiers]uint64{} {
			t.Errorf("explaining counted a pick of %s", id)
		}
	}
	if got := r.Explain(Query{App: "none", Client: client}, noon, 1); got.Candidates == nil || len(got.Candidates) != 0 || got.Reason != "no_backend" || got.Chosen != "" {
		t.Errorf("no candidates: %+v", got) // [] in JSON, not null
	}
}
