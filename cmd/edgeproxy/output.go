package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-isatty"
	"github.com/spf13/pflag"
)

// colour is the number of an ANSI colour; 0 is none.
type colour int

const (
	red    colour = 31
	green  colour = 32
	yellow colour = 33
)

// column is one of a table; numbers stand right.
type column struct {
	name  string
	right bool
}

type cell struct {
	text  string
	paint colour
}

func addJSON(fs *pflag.FlagSet, to *bool) {
	fs.BoolVar(to, "json", false, "print JSON, for programs")
}

// json prints v for a program.
func (c *cli) json(v any) error {
	e := json.NewEncoder(c.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// jsonLine prints v in one line, one of several.
func (c *cli) jsonLine(v any) error {
	e := json.NewEncoder(c.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table prints aligned columns for people. Every cell has a character, so that
// the columns count the same for awk.
func (c *cli) table(columns []column, rows [][]cell) error {
	return c.print(strings.Join(tableLines(columns, rows, c.coloured(c.stdout), math.MaxInt), ""))
}

// tableLines are the lines of a table, the header first, each cut to a width.
func tableLines(columns []column, rows [][]cell, coloured bool, width int) (lines []string) {
	header := make([]cell, len(columns))
	widths := make([]int, len(columns))
	for i, col := range columns {
		header[i].text = strings.ToUpper(col.name)
	}
	rows = append([][]cell{header}, rows...)
	for _, row := range rows {
		for i := range row {
			row[i].text = printable(row[i].text)
			if row[i].text == "" {
				row[i].text = "-"
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		left := width
		put := func(text string, paint colour) {
			text = clip(text, left)
			left -= utf8.RuneCountInString(text)
			b.WriteString(painted(text, paint, coloured))
		}
		for i, cell := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell.text))
			if columns[i].right {
				put(space, 0)
			}
			put(cell.text, cell.paint)
			if i == len(row)-1 {
				break
			}
			if !columns[i].right {
				put(space, 0)
			}
			put("  ", 0)
		}
		lines = append(lines, b.String()+"\n")
	}
	return lines
}

func painted(text string, paint colour, coloured bool) string {
	if !coloured || paint == 0 || text == "" {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", paint, text)
}

// clip cuts text to so many characters.
func clip(text string, width int) string {
	for i := range text {
		if width--; width < 0 {
			return text[:i]
		}
	}
	return text
}

// pairs prints names and values, one pair a line.
func (c *cli) pairs(pairs [][2]string) error {
	width := 0
	for _, p := range pairs {
		width = max(width, len(p[0]))
	}
	var b strings.Builder
	for _, p := range pairs {
		value := printable(p[1])
		if value == "" {
			value = "-"
		}
		fmt.Fprintf(&b, "%-*s  %s\n", width, p[0], value)
	}
	return c.print(b.String())
}

func (c *cli) print(text string) error {
	_, err := io.WriteString(c.stdout, text)
	return err
}

// coloured says whether w is a terminal that may show colours
// (https://no-color.org).
func (c *cli) coloured(w io.Writer) bool {
	return isTerminal(w) && c.env("NO_COLOR") == "" && c.env("TERM") != "dumb"
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// printable keeps what others wrote into a table from moving the cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
