package config

import (
	"fmt"
	"strings"
)

// Reference is the table of all settings in Markdown, for docs/configuration.md.
func Reference() string {
	var b strings.Builder
	b.WriteString("| YAML key | variable | flag | default | meaning | on SIGHUP |\n|---|---|---|---|---|---|\n")
	for _, s := range settings {
		live := "restart"
		if s.Live {
			live = "applied"
		}
		flag := ""
		if s.Flag != "" {
			flag = "--" + s.Flag
		}
		def := s.Empty
		if s.Default != "" {
			def = code(s.Default)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", code(s.FileKey()), code(s.Env()), code(flag), def, cell(s.Help+" ("+s.Allowed+")"), live)
	}
	return b.String()
}

func code(s string) string {
	if s == "" {
		return "–"
	}
	return "`" + cell(s) + "`"
}

// cell escapes what would end a cell of the table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
