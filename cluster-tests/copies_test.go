package clustertests

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// goesOn checks that writes on each of the POPs are seen by all, those to one
// row too.
func goesOn(t testing.TB, what string, pops ...*pop) {
	t.Helper()
	pops[0].sql(t, strings.Replace(insert(at("shared", "sa", refusing(t))), "INSERT", "INSERT OR IGNORE", 1))
	everywhere(t, "SELECT count(*) FROM backends WHERE id='shared'", "1", pops...)
	for i, p := range pops {
		id := fmt.Sprintf("%s-%d", what, i)
		p.sql(t, insert(at(id, "sa", refusing(t))))
		p.sql(t, fmt.Sprintf("UPDATE backends SET soft_limit=%d WHERE id='shared'", 200+i))
		everywhere(t, "SELECT count(*) FROM backends WHERE id='"+id+"'", "1", pops...)
		everywhere(t, "SELECT soft_limit FROM backends WHERE id='shared'", fmt.Sprint(200+i), pops...)
	}
	settle(t, converged, pops...)
}

// TestOldCopyRestored: a POP's file as it was some time ago, put back with cp
// while the daemon is down. Nothing that the mesh knows is undone.
func TestOldCopyRestored(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 3)
	a, p := m.pops[0], m.pops[1]
	p.sql(t, insert(at("shared", "sa", refusing(t)), at("goes", "sa", refusing(t))))
	settle(t, converged, m.pops...)
	old := filepath.Join(p.dir, "old.db")
	p.sql(t, "VACUUM INTO '"+old+"'")

	a.sql(t, "UPDATE backends SET weight=9 WHERE id='shared'; DELETE FROM backends WHERE id='goes'")
	p.sql(t, insert(at("since", "sa", refusing(t)))) // written by the one that will forget it
	settle(t, converged, m.pops...)
	stopAll(t, p)
	remove(t, p.db, p.db+"-wal", p.db+"-shm")
	copyOver(t, old, p.db)
	p.sql(t, insert(at("on-the-copy", "sa", refusing(t)))) // edited before it is started
	began := time.Now()
	p.start(t)
	together(t, m.pops...)
	everywhere(t, "SELECT id, weight FROM backends ORDER BY id", "on-the-copy|1\nshared|9\nsince|1", m.pops...)
	t.Logf("an old copy: all as in the mesh %s after the start", time.Since(began))
	settle(t, converged, m.pops...)
	goesOn(t, "down", m.pops...)
}

// TestBackupAndRestore with the daemon up, and what --as-written is for.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 3)
	a, p := m.pops[0], m.pops[1]
	p.sql(t, insert(at("shared", "sa", refusing(t)), at("goes", "sa", refusing(t))))
	settle(t, converged, m.pops...)
	backup := filepath.Join(p.dir, "backup.db")
	if err := p.do("backup", backup); err != nil {
		t.Fatal(err)
	}
	expectLines(t, "the backup", runSQL(t, backup, "SELECT id FROM backends"), "goes", "shared")
	if code, _, errs := p.run(t, "backup", backup); code == 0 || !strings.Contains(errs, "exists") {
		t.Errorf("backup over a file: %d %q", code, errs)
	}

	a.sql(t, "UPDATE backends SET weight=9 WHERE id='shared'; DELETE FROM backends WHERE id='goes'; "+insert(at("since", "sa", refusing(t))))
	settle(t, converged, m.pops...)
	began := time.Now()
	if err := p.do("restore", backup); err != nil {
		t.Fatal(err)
	}
	everywhere(t, "SELECT id, weight FROM backends ORDER BY id", "shared|9\nsince|1", m.pops...)
	t.Logf("a backup restored under the daemon: all as in the mesh after %s", time.Since(began))
	settle(t, converged, m.pops...)
	goesOn(t, "restored", m.pops...)
	eventually(t, soon, p.isReady)

	p.sql(t, "DELETE FROM backends WHERE id LIKE 'restored-%'")
	everywhere(t, "SELECT id FROM backends ORDER BY id", "shared\nsince", m.pops...)
	began = time.Now()
	if err := p.do("restore", "--as-written", backup); err != nil {
		t.Fatal(err)
	}
	everywhere(t, "SELECT id, weight FROM backends ORDER BY id", "goes|1\nshared|1\nsince|1", m.pops...)
	t.Logf("a backup restored as written: everywhere after %s", time.Since(began))
	settle(t, converged, m.pops...)
	goesOn(t, "again", m.pops...)
}

// TestFileOfAnother: routing.db of one POP, copied to start a second one with.
func TestFileOfAnother(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 2)
	m.pops[0].sql(t, insert(at("shared", "sa", refusing(t)), at("goes", "sa", refusing(t))))
	settle(t, converged, m.pops...)
	p := m.add(t)
	m.pops[1].sql(t, "VACUUM INTO '"+p.db+"'")
	m.pops[0].sql(t, "UPDATE backends SET weight=9 WHERE id='shared'; DELETE FROM backends WHERE id='goes'")
	p.start(t)
	together(t, m.pops...)
	everywhere(t, "SELECT id, weight FROM backends ORDER BY id", "shared|9", m.pops...)
	goesOn(t, "copied", m.pops...)
}

// TestClonedDisk: all files of a POP, name and key too, on a second machine
// while the first one runs. The name was made up, so the clone takes another;
// it may have to be started twice, as a supervisor would.
func TestClonedDisk(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 2)
	a, b := m.pops[0], m.pops[1]
	a.sql(t, insert(at("shared", "sa", refusing(t))))
	settle(t, converged, m.pops...)
	goesOn(t, "before", m.pops...)
	stopAll(t, b) // its files are all there then
	clone := m.add(t)
	if out, err := exec.Command("cp", "-a", b.dir+"/.", clone.dir).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	b.start(t)
	name := b.Node
	b.sql(t, "UPDATE backends SET weight=9")

	began := time.Now()
	clone.launch(t)
	starts := 1
	renamed := func() error {
		select {
		case <-clone.ended:
			if starts++; starts > 3 || clone.log.says("edgeproxy: ", name) != nil {
				t.Fatalf("it ended %d times, the last with %s", starts-1, clone.cmd.ProcessState)
			}
			clone.launch(t)
		default:
		}
		if err := clone.findAddresses(); err != nil {
			return err
		}
		if clone.Node == name {
			return fmt.Errorf("the clone is still called %s", name)
		}
		return formed(m.pops...)
	}
	if err := waitFor(soon, renamed); err != nil {
		t.Fatalf("%v%s", err, states(m.pops...))
	}
	t.Logf("the clone of %s is %s after %d starts and %s", name, clone.Node, starts, time.Since(began))
	if err := b.findAddresses(); err != nil || b.Node != name {
		t.Errorf("the one that was cloned is called %s now: %v", b.Node, err)
	}
	everywhere(t, "SELECT DISTINCT weight FROM backends", "9", m.pops...)
	goesOn(t, "after", m.pops...)
}
