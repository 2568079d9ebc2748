package clustertests

import (
	"fmt"
	"strings"
	"testing"
)

// badRows are rows that make no sense, each with the field that is wrong and
// the name by which a person finds it.
var badRows = []struct{ values, name, field string }{
	{"(NULL,'myapp','sa','10.0.0.1',80,1,1,50,100,0)", "NULL id", "id"},
	{"('','myapp','sa','10.0.0.1',80,1,1,50,100,0)", "", "id"},
	{"('port-0','myapp','sa','10.0.0.1',0,1,1,50,100,0)", "port-0", "port"},
	{"('port-70000','myapp','sa','10.0.0.1',70000,1,1,50,100,0)", "port-70000", "port"},
	{"('port-http','myapp','sa','10.0.0.1','http',1,1,50,100,0)", "port-http", "port"},
	{"('weight-1','myapp','sa','10.0.0.1',80,1,-1,50,100,0)", "weight-1", "weight"},
	{"('soft-1','myapp','sa','10.0.0.1',80,1,1,-50,100,0)", "soft-1", "soft_limit"},
	{"('not-an-ip','myapp','sa','not-an-ip',80,1,1,50,100,0)", "not-an-ip", "wg_ip"},
	{"('null-ip','myapp','sa',NULL,80,1,1,50,100,0)", "null-ip", "wg_ip"},
	{"('null-region','myapp',NULL,'10.0.0.1',80,1,1,50,100,0)", "null-region", "region"},
	{"('region-space','myapp','middle earth','10.0.0.1',80,1,1,50,100,0)", "region-space", "region"},
	{"('long-app',printf('%.*c',1000000,'x'),'sa','10.0.0.1',80,1,1,50,100,0)", "long-app", "app"},
	{"(printf('%.*c',1000000,'y'),'myapp','sa','10.0.0.1',80,1,1,50,100,0)", "yyyyyyyyyyyyyyyy", "id"},
	{"('long-ip','myapp','sa',printf('%.*c',1000000,'1'),80,1,1,50,100,0)", "long-ip", "wg_ip"},
	{"('utf8','myapp'||CAST(x'fffe' AS TEXT),'sa','10.0.0.1',80,1,1,50,100,0)", "utf8", "app"},
	{"('utf8-region','myapp',CAST(x'73ff' AS TEXT),'10.0.0.1',80,1,1,50,100,0)", "utf8-region", "region"},
	{"(CAST(x'62ff' AS TEXT),'myapp','sa','10.0.0.1',80,1,1,50,100,0)", "b", "id"},
	{"('escape','my'||char(27)||'[2Japp','sa','10.0.0.1',80,1,1,50,100,0)", "escape", "app"},
	{"('real','myapp','sa','10.0.0.1',80.5,1,1,50,100,0)", "real", "port"},
}

func insertBadRows() string {
	var values []string
	for _, r := range badRows {
		values = append(values, r.values)
	}
	return "INSERT INTO backends VALUES " + strings.Join(values, ",\n")
}

// TestBadRows: each is left out by itself and named, in the log, by check, in
// the status and in a metric; the others are served.
func TestBadRows(t *testing.T) {
	t.Parallel()
	rows := startBackends(t, "sa", "eu")
	for name, running := range map[string]bool{"before the start": false, "while it runs": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPOP(t, trusting...)
			p.seed(t, rows...)
			if running {
				p.start(t)
				p.sql(t, insertBadRows())
			} else {
				p.sql(t, insertBadRows())
				p.start(t)
			}
			eventually(t, soon, func() error {
				if n := p.metric(t, "edgeproxy_rows_left_out", `table="backends"`); n != float64(len(badRows)) {
					return fmt.Errorf("the metric counts %g rows left out, want %d", n, len(badRows))
				}
				return nil
			})
			st := p.status(t)
			if st.Backends.Total != 2 || st.Backends.Up != 2 || !st.Ready || len(st.Problems) != len(badRows) {
				t.Errorf("status %+v, want two backends up and %d problems", st, len(badRows))
			}
			code, out, _ := p.run(t, "check")
			if lines := strings.Count(out, "\n"); code != 2 || lines != len(badRows) {
				t.Errorf("check: exit code %d and %d lines, want 2 and %d", code, lines, len(badRows))
			}
			for _, r := range badRows {
				p.expectLog(t, `"level":"warn"`, "row left out", `"row":"`+logged(r.name), `"field":"`+r.field+`"`)
				if len(linesWith(out, "backends", r.name, r.field+": ")) == 0 {
					t.Errorf("check does not name %q and %s", r.name, r.field)
				}
			}
			for _, line := range append(p.log.lines(), strings.Split(out, "\n")...) {
				if len(line) > 1000 || strings.ContainsRune(line, '\x1b') {
					t.Errorf("a line of %d bytes: %.200q", len(line), line)
				}
			}
			for from, want := range map[string]string{"200.160.2.3": "sa-1", "193.99.144.80": "eu-1"} {
				if got := p.goes(t, from); got != want {
					t.Errorf("%s went to %q", from, got)
				}
			}

			// The rows can be mended or removed one by one, and said so once.
			p.sql(t, "UPDATE backends SET port=81, wg_ip='10.0.0.9', region='ap', healthy=0 WHERE id IN ('port-0','not-an-ip','null-region')")
			eventually(t, soon, func() error {
				if n := p.metric(t, "edgeproxy_rows_left_out", `table="backends"`); n != float64(len(badRows)-3) {
					return fmt.Errorf("the metric counts %g rows left out, want %d", n, len(badRows)-3)
				}
				return nil
			})
			p.sql(t, "DELETE FROM backends WHERE id IS NULL OR id NOT IN ('sa-1','eu-1','port-0','not-an-ip','null-region')")
			eventually(t, soon, func() error {
				if n := p.metric(t, "edgeproxy_rows_left_out", `table="backends"`); n != 0 {
					return fmt.Errorf("the metric still counts %g rows left out", n)
				}
				return nil
			})
			if code, out, _ := p.run(t, "check"); code != 0 {
				t.Errorf("check afterwards: %d %q", code, out)
			}
		})
	}
}

// logged is how a name begins in a line of JSON.
func logged(name string) string {
	if name == "NULL id" {
		return "row "
	}
	return name
}

// TestNULLsAreDefaults: healthy 1, weight 1, soft_limit 1, hard_limit unlimited, not deleted.
func TestNULLsAreDefaults(t *testing.T) {
	t.Parallel()
	a := startBackend(t, "a", "sa")
	p := newPOP(t)
	p.seed(t)
	p.sql(t, fmt.Sprintf("INSERT INTO backends (id, region, wg_ip, port, deleted) VALUES ('a', 'sa', '127.0.0.1', %d, NULL)", a.addr.Port()))
	p.start(t)
	if b := p.backends(t)["a"]; !b.Healthy || b.Weight != 1 || b.SoftLimit != 1 || b.HardLimit != 0 || b.State != "up" || b.App != "" {
		t.Errorf("a row of NULLs became %+v", b)
	}
	open, refused := p.hold(t, 10)
	if len(open) != 10 || refused != 0 {
		t.Errorf("%d of 10 got through", len(open))
	}
}
