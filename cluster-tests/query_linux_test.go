package clustertests

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// TestQueriesYield: a query runs behind the POP, with all its threads.
func TestQueriesYield(t *testing.T) {
	t.Parallel()
	p := startPOP(t, nil)
	ctx, hangUp := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	defer asking.Wait()
	defer hangUp()
	asking.Go(func() {
		const endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n"
		for ctx.Err() == nil { // it ends after 2 s, which may be too soon
			r, err := http.NewRequestWithContext(ctx, "GET", "http://"+local(p.apiAddr())+"/api/v1/query?sql="+url.QueryEscape(endless), nil)
			if err != nil {
				t.Error(err)
				return
			}
			if a, err := web.Do(r); err == nil {
				a.Body.Close()
			}
		}
	})
	eventually(t, soon, func() error {
		children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.PID))
		for _, file := range children {
			list, _ := os.ReadFile(file)
			for _, pid := range bytes.Fields(list) {
				return nice(string(pid), 5)
			}
		}
		return fmt.Errorf("no query runs: %q", children)
	})
}

// nice says whether all threads of a process have a nice value (proc(5), stat).
func nice(pid string, want int) error {
	threads, _ := filepath.Glob("/proc/" + pid + "/task/*/stat")
	if len(threads) == 0 {
		return fmt.Errorf("process %s has gone", pid)
	}
	for _, file := range threads {
		stat, _ := os.ReadFile(file)
		_, behind, _ := bytes.Cut(stat, []byte(") ")) // the third field and on
		if fields := bytes.Fields(behind); len(fields) < 17 || string(fields[16]) != fmt.Sprint(want) {
			return fmt.Errorf("%s: %s, want a nice value of %d", file, stat, want)
		}
	}
	return nil
}
