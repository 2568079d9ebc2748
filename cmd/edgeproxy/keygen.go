package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"

	"github.com/spf13/cobra"
)

// keyBytes is the length of the secret that the POPs of a mesh share.
const keyBytes = 32

func newKeygen(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "keygen",
		GroupID: groupPOP,
		Short:   "Print a new secret for a mesh",
		Long: `Prints 32 random bytes in base64: the secret that all POPs of a mesh share, for
EDGEPROXY_CLUSTER_KEY. Who has it can join the mesh and change its routing;
keep it in a file that only edgeproxy can read. A POP alone needs none.`,
		Example: `  edgeproxy keygen
  (umask 077 && edgeproxy keygen > cluster.key)`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			key := make([]byte, keyBytes)
			rand.Read(key) // never fails: it ends the process instead
			_, err := fmt.Fprintln(c.stdout, base64.StdEncoding.EncodeToString(key))
			return err
		},
	}
}
