package sqlite

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// guard is SQLite's authorizer for a query
// (https://www.sqlite.org/c3ref/set_authorizer.html): what it does not know it
// refuses, and says what.
type guard struct {
	modules []string // of virtual tables that are there without being made
	why     string   // of the first refusal
}

// Action codes, https://www.sqlite.org/c3ref/c_alter_table.html.
const (
	actPragma    = 19
	actRead      = 20
	actSelect    = 21
	actFunction  = 31
	actRecursive = 33
)

// actions are the others, by what a person calls them.
var actions = map[int]string{
	1: "CREATE INDEX", 2: "CREATE TABLE", 3: "CREATE TEMP INDEX", 4: "CREATE TEMP TABLE", 5: "CREATE TEMP TRIGGER", 6: "CREATE TEMP VIEW",
	7: "CREATE TRIGGER", 8: "CREATE VIEW", 9: "DELETE", 10: "DROP INDEX", 11: "DROP TABLE", 12: "DROP TEMP INDEX", 13: "DROP TEMP TABLE",
	14: "DROP TEMP TRIGGER", 15: "DROP TEMP VIEW", 16: "DROP TRIGGER", 17: "DROP VIEW", 18: "INSERT", 22: "a transaction", 23: "UPDATE",
	24: "ATTACH", 25: "DETACH", 26: "ALTER TABLE", 27: "REINDEX", 28: "ANALYZE", 29: "CREATE VIRTUAL TABLE", 30: "DROP VIRTUAL TABLE", 32: "SAVEPOINT",
}

// allows says whether the statement may do it.
func (g *guard) allows(action int, first, second string) bool {
	why := ""
	switch action {
	case actSelect, actRecursive:
	case actRead:
		why = g.read(strings.ToLower(first))
	case actFunction:
		if !queryFunctions[strings.ToLower(second)] {
			why = fmt.Sprintf("the function %s is not one that a query may call", clip(second))
		}
	case actPragma:
		why = pragma(strings.ToLower(first), second)
	default:
		if why = actions[action]; why == "" {
			why = fmt.Sprintf("action %d", action)
		}
		why += ": a query only reads"
	}
	if why != "" && g.why == "" {
		g.why = why
	}
	return why == ""
}

func (g *guard) read(table string) string {
	if name, is := strings.CutPrefix(table, "pragma_"); is {
		return pragma(name, "")
	}
	if table != "json_each" && table != "json_tree" && slices.Contains(g.modules, table) {
		return fmt.Sprintf("the virtual table %s is not one that a query may read", clip(table))
	}
	return ""
}

// Pragmas that tell and change nothing: of an object that is named, and of the file.
var (
	pragmasOf  = []string{"table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"}
	pragmasAll = []string{"table_list", "user_version", "schema_version", "application_id", "data_version", "page_count", "page_size", "freelist_count", "encoding", "journal_mode", "compile_options", "function_list", "collation_list"}
)

// pragma says why one is refused.
func pragma(name, argument string) string {
	switch {
	case argument == "" && (slices.Contains(pragmasAll, name) || slices.Contains(pragmasOf, name)):
		return ""
	case argument != "" && slices.Contains(pragmasOf, name):
		return ""
	case argument != "" && slices.Contains(pragmasAll, name):
		return fmt.Sprintf("PRAGMA %s with a value: a query only reads", clip(name))
	}
	return fmt.Sprintf("PRAGMA %s is not one that a query may use; there are %s", clip(name), strings.Join(append(slices.Clone(pragmasOf), pragmasAll[1:]...), ", "))
}

// queryFunctions are SQLite's own that compute. Left out is what writes, loads,
// logs or speaks to an extension, and what may take the square of a value's
// length with a great factor (json_patch).
var queryFunctions = func() map[string]bool {
	all := map[string]bool{}
	for _, name := range strings.Fields(`
		-> ->> abs avg char coalesce concat concat_ws count cume_dist current_date current_time current_timestamp date datetime
		dense_rank first_value format glob group_concat hex if ifnull iif instr json json_array json_array_insert json_array_length
		json_error_position json_extract json_group_array json_group_object json_insert json_object json_pretty json_quote
		json_remove json_replace json_set json_type json_valid jsonb jsonb_array jsonb_array_insert jsonb_extract jsonb_group_array
		jsonb_group_object jsonb_insert jsonb_object jsonb_remove jsonb_replace jsonb_set julianday lag last_value lead length like
		likelihood likely lower ltrim max min nth_value ntile nullif octet_length percent_rank printf quote random randomblob rank
		replace round row_number rtrim sign sqlite_compileoption_get sqlite_compileoption_used sqlite_source_id sqlite_version
		strftime string_agg substr substring subtype sum time timediff total trim typeof unhex unicode unistr unistr_quote unixepoch
		unlikely upper zeroblob
		acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2 mod pi pow power radians
		sin sinh sqrt tan tanh trunc`) {
		all[name] = true
	}
	return all
}()

// position says where in the statement SQLite stumbled, which its words do not:
// at the first word like the one that it names, up to which the statement
// already fails alike.
func position(ctx context.Context, c *conn, statement string, failed error) string {
	_, after, ok := strings.Cut(failed.Error(), `near "`)
	if !ok {
		return ""
	}
	tokens, _ := tokenize(statement)
	for _, t := range tokens {
		if text := statement[t.start:t.end]; !strings.HasPrefix(after, text+`"`) {
			continue
		}
		st, err := c.PrepareContext(ctx, statement[:t.end])
		if err == nil {
			_ = st.Close() // nothing was read
			continue
		}
		if err.Error() == failed.Error() {
			return fmt.Sprintf(" (at character %d)", len([]rune(statement[:t.start]))+1)
		}
	}
	return ""
}
