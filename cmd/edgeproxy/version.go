package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// release is set by the linker: -ldflags "-X main.release=1.2.3".
var release string

// build is what the binary knows of its own making.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"` // empty where it was built outside a checkout
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	SQLite   string `json:"sqlite"` // module of the driver, and its version
}

// drivers are the SQLite drivers; a binary holds the one that its build chose.
var drivers = map[string]string{
	"github.com/mattn/go-sqlite3": "C",
	"modernc.org/sqlite":          "pure Go",
}

func newVersion(c *cli) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long: `Prints the version of edgeproxy, the commit and the Go version that it was built
from, and which SQLite driver is in it. The version of a running POP is in
"edgeproxy status".`,
		Example: `  edgeproxy version
  edgeproxy version --json`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			b := readBuild()
			if asJSON {
				return c.json(b)
			}
			commit := b.Commit
			if b.Modified {
				commit += " (modified)"
			}
			_, err := fmt.Fprintf(c.stdout, "edgeproxy %s\n", b.Version)
			if err != nil {
				return err
			}
			return c.pairs([][2]string{{"commit", commit}, {"go", b.Go + " " + b.Platform}, {"sqlite", b.SQLite}})
		},
	}
	addJSON(cmd.Flags(), &asJSON)
	return cmd
}

// version is what status and --version show.
func version() string { return readBuild().Version }

func readBuild() build {
	b := build{Version: release, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
		for _, dep := range info.Deps {
			if kind, ok := drivers[dep.Path]; ok {
				b.SQLite = fmt.Sprintf("%s %s (%s)", dep.Path, dep.Version, kind)
			}
		}
		if b.Version == "" && info.Main.Version != "(devel)" {
			b.Version = info.Main.Version
		}
	}
	if b.Version == "" {
		b.Version = "devel"
	}
	return b
}
