package sqlite

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// typical is a backend's record as another POP wrote it.
func typical(o crdt.Origin, n uint64, weight int64) crdt.Record {
	rec := crdt.Record{Key: backend(fmt.Sprintf("sa-node-%07d", n))}
	stamp := crdt.Stamp{Time: crdt.At(1_700_000_000_000 + int64(n)), Origin: o, Seq: n}
	for _, c := range []struct {
		name  string
		value crdt.Value
	}{
		{"app", crdt.TextValue("myapp")}, {"deleted", crdt.IntValue(0)}, {"hard_limit", crdt.IntValue(100)}, {"healthy", crdt.IntValue(1)},
		{"port", crdt.IntValue(8080)}, {"region", crdt.TextValue("sa")}, {"soft_limit", crdt.IntValue(50)}, {"weight", crdt.IntValue(weight)},
		{"wg_ip", crdt.TextValue(fmt.Sprintf("10.50.%d.%d", n/250%250, n%250))},
	} {
		rec.Cells = append(rec.Cells, crdt.Cell{Column: c.name, Value: c.value, Stamp: stamp})
	}
	return rec
}

func benchPop(b *testing.B) *pop {
	s, err := Open(b.Context(), filepath.Join(b.TempDir(), "routing.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	p := &pop{Store: s, t: b, life: Life{Node: "sa"}, now: wall}
	p.begin()
	return p
}

func BenchmarkApply(b *testing.B) {
	for _, batch := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(batch), func(b *testing.B) {
			p := benchPop(b)
			o := crdt.Origin{Node: "eu", Epoch: 1}
			n, used := uint64(0), 0.0
			for b.Loop() {
				b.StopTimer()
				d := crdt.Delta{Ranges: []crdt.Range{{Origin: o, From: n, To: n + uint64(batch)}}}
				for range batch {
					n++
					d.Records = append(d.Records, typical(o, n, 2))
				}
				b.StartTimer()
				begin := cpu()
				if _, err := p.Apply(b.Context(), "eu", d); err != nil {
					b.Fatal(err)
				}
				used += cpu() - begin
			}
			b.ReportMetric(float64(n)/used, "rows/cpu-s")
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkSize is what a row takes, and how much of it is edgeproxy's.
func BenchmarkSize(b *testing.B) {
	p := benchPop(b)
	o := crdt.Origin{Node: "eu", Epoch: 1}
	const rows = 100_000
	d := crdt.Delta{}
	for n := range uint64(rows) {
		d.Records = append(d.Records, typical(o, n+1, 2))
	}
	for b.Loop() {
		if _, err := p.Apply(b.Context(), "eu", d); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := p.writer.ExecContext(b.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		b.Fatal(err)
	}
	fi, err := os.Stat(p.path)
	if err != nil {
		b.Fatal(err)
	}
	whole := fi.Size()
	plain := filepath.Join(b.TempDir(), "plain.db")
	db, err := sql.Open(Driver, uri(plain, "rwc"))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, q := range []string{schema, "ATTACH '" + p.path + "' AS a", "INSERT INTO main.backends SELECT * FROM a.backends ORDER BY rowid"} {
		if _, err := db.Exec(q); err != nil {
			b.Fatal(err)
		}
	}
	if fi, err = os.Stat(plain); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(whole)/rows, "B/row")
	b.ReportMetric(float64(whole-fi.Size())/rows, "clock-B/row")
}

func BenchmarkCapture(b *testing.B) {
	p := benchPop(b)
	other, err := sql.Open(Driver, uri(p.path, "rw"))
	if err != nil {
		b.Fatal(err)
	}
	defer other.Close()
	other.SetMaxOpenConns(1)
	const rows = 20_000
	n := 0
	for b.Loop() {
		tx, err := other.Begin()
		if err != nil {
			b.Fatal(err)
		}
		st, err := tx.Prepare("INSERT INTO backends VALUES (?, 'myapp', 'sa', '10.50.1.1', 8080, 1, 2, 50, 100, 0)")
		if err != nil {
			b.Fatal(err)
		}
		for range rows {
			n++
			if _, err := st.Exec(fmt.Sprintf("n-%08d", n)); err != nil {
				b.Fatal(err)
			}
		}
		st.Close()
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkFold(b *testing.B) {
	for _, rows := range []int{1, 1000, 20_000} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			p := benchPop(b)
			n := 0
			for b.Loop() {
				b.StopTimer()
				n += rows
				if _, err := p.writer.ExecContext(b.Context(), fmt.Sprintf("WITH RECURSIVE s(i) AS (SELECT %d UNION ALL SELECT i + 1 FROM s WHERE i < %d) INSERT INTO backends SELECT 'n-' || i, 'myapp', 'sa', '10.50.1.1', 8080, 1, 2, 50, 100, 0 FROM s", n-rows+1, n)); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if got := len(p.fold()); got != rows {
					b.Fatal(got)
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

func BenchmarkSince(b *testing.B) {
	p := benchPop(b)
	o := crdt.Origin{Node: "eu", Epoch: 1}
	const rows = 50_000
	d := crdt.Delta{Ranges: []crdt.Range{{Origin: o, To: rows}}}
	for n := range uint64(rows) {
		d.Records = append(d.Records, typical(o, n+1, 2))
	}
	if _, err := p.Apply(b.Context(), "eu", d); err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		heads := crdt.Heads{}
		for more := true; more; {
			var d crdt.Delta
			var err error
			if d, more, err = p.Since(b.Context(), heads, 64<<10); err != nil {
				b.Fatal(err)
			}
			for _, g := range d.Ranges {
				heads.Cover(g)
			}
			n += len(d.Records)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkIdleFold(b *testing.B) {
	p := benchPop(b)
	for b.Loop() {
		if _, err := p.Fold(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// cpu is what this process has used, in seconds: what others use of the
// machine does not count.
func cpu() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// BenchmarkPlain is the yardstick: the same rows by the driver alone, one
// prepared INSERT each, in transactions of 1000.
func BenchmarkPlain(b *testing.B) {
	db, err := sql.Open(Driver, uri(filepath.Join(b.TempDir(), "plain.db"), "rwc"))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, q := range []string{schema, "PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL"} {
		if _, err := db.Exec(q); err != nil {
			b.Fatal(err)
		}
	}
	n, begin := 0, cpu()
	for b.Loop() {
		tx, err := db.Begin()
		if err != nil {
			b.Fatal(err)
		}
		st, err := tx.Prepare("INSERT INTO backends VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
		if err != nil {
			b.Fatal(err)
		}
		for range 1000 {
			n++
			if _, err := st.Exec(fmt.Sprintf("sa-node-%07d", n), "myapp", "sa", "10.50.1.1", 8080, 1, 2, 50, 100, 0); err != nil {
				b.Fatal(err)
			}
		}
		st.Close()
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/(cpu()-begin), "rows/cpu-s")
}

// BenchmarkPoll of a file that did not change: the node does it up to a hundred times a second.
func BenchmarkPoll(b *testing.B) {
	s, err := Open(b.Context(), filepath.Join(b.TempDir(), "routing.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for b.Loop() {
		if changed, err := s.Poll(b.Context()); changed || err != nil {
			b.Fatal(changed, err)
		}
	}
}
