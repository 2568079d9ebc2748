package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// addCompletion adds cobra's own command, with the examples that it lacks.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	load := map[string]string{
		"bash":       "source <(edgeproxy completion bash)",
		"zsh":        "source <(edgeproxy completion zsh)",
		"fish":       "edgeproxy completion fish | source",
		"powershell": "edgeproxy completion powershell | Out-String | Invoke-Expression",
	}
	for _, cmd := range root.Commands() {
		if cmd.Name() != "completion" {
			continue
		}
		group(cmd)
		cmd.Short = "Print a completion script for a shell"
		cmd.Long = "Prints a script that makes the shell complete commands and flags of edgeproxy.\nThe help of each shell's command says where to put it."
		cmd.Example = "  " + load["bash"]
		for _, shell := range cmd.Commands() {
			shell.Short = fmt.Sprintf("Print the completion script for %s", shell.Name())
			shell.Example = "  " + load[shell.Name()]
			shell.Args = takes()
		}
	}
}
