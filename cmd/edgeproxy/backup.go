package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/node"
	"github.com/spf13/cobra"
)

func newBackup(c *cli) *cobra.Command {
	t := &target{cli: c}
	cmd := &cobra.Command{
		Use:     "backup FILE",
		GroupID: groupMesh,
		Short:   "Copy the routing database while it is in use",
		Long: `Writes a consistent copy of the routing database to a new file. The copy is a
database like the original: sqlite3 reads it, "edgeproxy restore" brings it back.` + targetHelp,
		Example: `  edgeproxy backup routing-2026-11-23.db
  edgeproxy backup --db /var/lib/edgeproxy/routing.db copy.db`,
		Args: takes("a FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return create(args[0], func(to io.Writer) error {
				if cmd.Flags().Changed("db") && t.api == "" {
					cfg, err := t.config(cmd)
					if err != nil {
						return err
					}
					return node.Backup(cmd.Context(), cfg.DBPath, to)
				}
				return t.ask(cmd, func(ctx context.Context, pop *api.Client) error { return pop.Backup(ctx, to) })
			})
		},
	}
	t.addAPIFlags(cmd.Flags(), "db_path")
	cmd.Flags().Lookup("db").Usage = "copy this database file, whether edgeproxy runs or not"
	return cmd
}

// create writes a new file, which is there as a whole or not at all.
func create(path string, write func(io.Writer) error) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists: remove it, or name another file", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return writing(path, err)
	}
	defer os.Remove(f.Name()) // gone already where all went well
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// writing says an error of the file beside it with the name that was given.
func writing(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: there is no directory %s", path, filepath.Dir(path))
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return fmt.Errorf("write %s: %w", path, err)
}

func newRestore(c *cli) *cobra.Command {
	asWritten := false
	cmd := &cobra.Command{
		Use:     "restore FILE",
		GroupID: groupMesh,
		Short:   "Put a backup in the place of the routing database",
		Long: `Puts a copy of FILE in the place of the routing database, whether edgeproxy runs
on it or not; a running one takes it up at once. FILE stays as it is.

A POP of a mesh then hears from the others what has changed since the backup,
so nothing that the mesh still knows is undone. To undo it on every POP, give
--as-written: the rows of FILE count as written now. Rows that FILE lacks are not
deleted by either.`,
		Example: `  edgeproxy restore routing-2026-11-23.db
  edgeproxy restore --as-written --db /var/lib/edgeproxy/routing.db copy.db`,
		Args: takes("a FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, _, err := config.Load(cmd.Flags(), c.only("EDGEPROXY_CONFIG", "EDGEPROXY_DB_PATH"), config.ReadFile)
			if err != nil {
				return err
			}
			rows, err := node.Restore(cmd.Context(), cfg.DBPath, args[0], asWritten)
			if err != nil {
				return err
			}
			return c.print(fmt.Sprintf("%s restored from %s, %d backends\n", printable(cfg.DBPath), printable(args[0]), rows))
		},
	}
	config.AddFlags(cmd.Flags(), "db_path", "config")
	cmd.Flags().BoolVar(&asWritten, "as-written", false, "count the rows of FILE as written now, on every POP")
	return cmd
}
