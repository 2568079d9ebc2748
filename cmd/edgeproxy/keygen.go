package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
)

// keyBytes is the length of the secret that the POPs of a mesh share.
const keyBytes = 32

func newKeygen(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "keygen [file...]",
		GroupID: groupPOP,
		Short:   "Print a new secret for a mesh",
		Long: `Prints 32 random bytes in base64: the secret that all POPs of a mesh share, for
EDGEPROXY_CLUSTER_KEY. Who has it can join the mesh and change its routing;
keep it in a file that only edgeproxy can read. A POP alone needs none.

With names of files it writes a secret of its own to each, readable by their
owner only, and leaves those alone that are there: for set-ups without a shell.`,
		Example: `  edgeproxy keygen
  (umask 077 && edgeproxy keygen > cluster.key)
  edgeproxy keygen cluster.key api.token`,
		Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, files []string) error {
			if len(files) == 0 {
				_, err := fmt.Fprintln(c.stdout, newSecret())
				return err
			}
			for _, name := range files {
				if err := c.keepSecret(name); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func newSecret() string {
	key := make([]byte, keyBytes)
	rand.Read(key) // never fails: it ends the process instead
	return base64.StdEncoding.EncodeToString(key)
}

// keepSecret writes a new one to a file that does not exist yet, and is on the
// disk when it returns. What of it was written when that failed is removed:
// half a secret would be kept for ever.
func (c *cli) keepSecret(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		_, err := fmt.Fprintln(c.stdout, name, "is there already")
		return err
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, newSecret())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(name)
		return err
	}
	_, err = fmt.Fprintln(c.stdout, name, "made")
	return err
}
