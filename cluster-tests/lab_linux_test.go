package clustertests

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	labProject = "edgeproxytest" // always the same: what an interrupted run left is found by it
	labNet     = "10.51"         // beside a lab that somebody looks at, which is at 10.50
	labImage   = "edgeproxy:test"
)

// lab is the repository's compose file, up for as long as a test runs. Its
// engine is on this machine and we are root: rows are read in the volumes, and
// packets dropped in the namespaces of the containers.
type lab struct {
	compose []string // docker compose, or docker-compose
	token   string
}

// tool runs a program that must be done soon.
func tool(within time.Duration, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = time.Second
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = fmt.Errorf("no answer within %s", within)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %.2000s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(string(out)), err
}

// findLab says in a sentence what is missing.
func findLab() (*lab, error) {
	l := &lab{}
	if os.Getuid() != 0 {
		return nil, errors.New("EDGEPROXY_TEST=lab looks into volumes and namespaces of containers, which needs root")
	}
	for _, program := range []string{"docker", "nsenter", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("EDGEPROXY_TEST=lab needs %s, which is not installed", program)
		}
	}
	if _, err := tool(20*time.Second, "", "docker", "version", "--format", "{{.Server.Version}}"); err != nil {
		return nil, fmt.Errorf("EDGEPROXY_TEST=lab needs a Docker engine that answers: %w", err)
	}
	if _, err := tool(20*time.Second, "", "docker", "compose", "version"); err == nil {
		l.compose = []string{"docker", "compose"}
	} else if _, err := exec.LookPath("docker-compose"); err == nil {
		l.compose = []string{"docker-compose"}
	} else {
		return nil, errors.New("EDGEPROXY_TEST=lab needs Docker's compose plugin, or docker-compose 1.29")
	}
	return l, nil
}

// run is a command of compose for our project.
func (l *lab) run(args ...string) (string, error) {
	all := append([]string{"env", "EDGEPROXY_LAB_NET=" + labNet, "EDGEPROXY_LAB_IMAGE=" + labImage,
		"EDGEPROXY_LAB_SA=0", "EDGEPROXY_LAB_US=0", "EDGEPROXY_LAB_EU=0", "EDGEPROXY_LAB_SA_API=0", "EDGEPROXY_LAB_US_API=0", "EDGEPROXY_LAB_EU_API=0"}, l.compose...)
	return tool(3*time.Minute, "", append(append(all, "-p", labProject, "-f", filepath.Join(repoRoot, "docker-compose.yaml")), args...)...)
}

// startLab builds the image, starts the lab, and removes both when the test ends.
func startLab(t testing.TB) *lab {
	t.Helper()
	l, err := findLab()
	if err != nil {
		t.Fatal(err)
	}
	l.claim(t)
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/edgeproxy", "./cmd/mock-backend")
	build.Dir, build.Env = repoRoot, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	down := func() error {
		_, err := l.run("down", "-v", "--remove-orphans")
		return err
	}
	if err := down(); err != nil { // what an interrupted run has left
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := down(); err != nil {
			t.Error(err)
		}
		if _, err := tool(time.Minute, "", "docker", "rmi", labImage); err != nil {
			t.Error(err)
		}
	})
	if _, err := tool(3*time.Minute, "", "docker", "build", "-t", labImage, "-f", filepath.Join(repoRoot, "deploy/prebuilt.Dockerfile"), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := l.run("up", "--no-build", "-d"); err != nil {
		t.Fatalf("%v\n(are its networks, %s.0.0 to .3.0, another's?)", err, labNet)
	}
	keys, err := l.volume("keys")
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(keys, "api.token"))
	if err != nil {
		t.Fatal(err)
	}
	l.token = strings.TrimSpace(string(token))
	return l
}

// claim keeps two runs from one lab.
func (l *lab) claim(t testing.TB) {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), labProject+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatalf("another run has the lab %s (%s is locked): wait for its end", labProject, f.Name())
	}
}

// volume is where one is on this machine.
func (l *lab) volume(name string) (string, error) {
	return tool(20*time.Second, "", "docker", "volume", "inspect", "-f", "{{.Mountpoint}}", labProject+"_"+name)
}

// container is the name of a service's only one: docker-compose has joined the
// parts by _, Compose v2 does it by -.
func (l *lab) container(service string) (string, error) {
	id, err := l.run("ps", "-a", "-q", service)
	if err == nil && (id == "" || strings.Contains(id, "\n")) {
		err = fmt.Errorf("service %s has containers %q, want one", service, id)
	}
	return id, err
}

// labAddr is an address of the lab: network 0 is the backbone, 1 to 3 are sa, us and eu.
func labAddr(network, host int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("%s.%d.%d", labNet, network, host))
}
