package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/node"
	"github.com/spf13/cobra"
)

func newQuery(c *cli) *cobra.Command {
	t := &target{cli: c}
	cmd := &cobra.Command{
		Use:        "query SQL",
		GroupID:    groupAsk,
		SuggestFor: []string{"sql", "select"},
		Short:      "Ask a POP's database, reading only",
		Long: fmt.Sprintf(`Runs one SQL statement that only reads on the routing.db of a POP, and prints
the rows: SELECT, WITH, VALUES, EXPLAIN, and the PRAGMAs that tell and change
nothing. - as SQL reads it from stdin.

Bounds: %d seconds, 10,000 rows, 4 MiB. What is left out is said on stderr. A -
stands for NULL, x'…' is a blob. In JSON blobs are {"blob":"base64"}.`, sqlite.QueryTime/time.Second) + targetHelp,
		Example: `  edgeproxy query 'SELECT id, weight FROM backends ORDER BY weight'
  edgeproxy query 'SELECT pop, sum(connections) FROM backend_load GROUP BY pop' --json
  edgeproxy query 'PRAGMA table_info(services)' --db routing.db`,
		Args:              takes("an SQL statement"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		sql := args[0]
		if sql == "-" {
			body, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 1<<20))
			if err != nil {
				return err
			}
			sql = string(body)
		}
		a, err := t.query(cmd, sql)
		if qe, ok := errors.AsType[*api.QueryError](err); ok && (qe.Code == 400 || qe.Code == 403) {
			return usageError{err}
		}
		if err != nil {
			return err
		}
		return t.cli.answer(a, t.json)
	}
	t.addFlags(cmd.Flags())
	return cmd
}

// query asks the POP, or the file itself.
func (t *target) query(cmd *cobra.Command, sql string) (a api.QueryAnswer, err error) {
	if !cmd.Flags().Changed("db") {
		err = t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
			a, err = pop.Query(ctx, sql)
			return err
		})
		return a, err
	}
	cfg, err := t.fileConfig(cmd)
	if err != nil {
		return a, err
	}
	switch r := node.RunQuery(cmd.Context(), node.QueryRequest{DB: cfg.DBPath, SQL: sql}); {
	case r.Answer != nil:
		return *r.Answer, nil
	case r.Error != nil:
		return a, r.Error
	default:
		return a, errors.New(r.Unavailable)
	}
}

func (c *cli) answer(a api.QueryAnswer, asJSON bool) error {
	rows, err := a.Values()
	if err != nil {
		return err
	}
	if a.Truncated {
		defer c.complain(fmt.Sprintf("there are more rows than these %d: add WHERE or LIMIT", len(rows)))
	}
	if asJSON {
		return c.json(a)
	}
	columns := make([]column, len(a.Columns))
	for i, name := range a.Columns {
		columns[i] = column{name: printable(name), right: len(rows) > 0}
	}
	cells := make([][]cell, len(rows))
	for i, row := range rows {
		for j, v := range row {
			text := ""
			switch v := v.(type) {
			case json.Number:
				text = v.String()
			case string:
				text = strings.ReplaceAll(v, "\n", " ")
				columns[j].right = false
			case []byte:
				text = "x'" + hex.EncodeToString(v) + "'"
				columns[j].right = false
			}
			cells[i] = append(cells[i], cell{text: text})
		}
	}
	return c.table(columns, cells)
}
