package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Problem is one thing that is wrong, in words for whoever wrote it.
type Problem struct {
	Key     string // of the setting; "" if it is about none
	Source  string // as written: --listen, EDGEPROXY_LISTEN_ADDR, or "listen_addr in /etc/edgeproxy.yaml, line 3"
	Value   string // as written, quoted and shortened; "the value" if it is secret, "" if there is none
	Message string // what is wrong, and what is allowed
	Hint    string // what to do next; may be empty
}

// String is one line of printable text, whatever the file or the environment holds.
func (p Problem) String() string {
	s := p.Source + ": "
	if p.Value != "" {
		s += p.Value + " "
	}
	s += p.Message
	if p.Hint != "" {
		s += "; " + p.Hint
	}
	return printable(s)
}

// Problems is the error of Load and Validate: everything that is wrong, at once.
type Problems []Problem

// Error has one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// err is nil if there are no problems; a nil Problems in an error would not be.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// maxProblems bounds what is reported of one file: who gives the wrong file does not want 100,000 lines.
const maxProblems = 20

// fault is a problem before its setting and source are known.
type fault struct {
	what, hint string
	in         *pair // the entry of a mapping that it is about
}

func (f fault) Error() string { return f.what }

func asFault(err error) fault {
	var f fault
	if !errors.As(err, &f) {
		f.what = err.Error()
	}
	return f
}

type faults []fault

func (fs faults) Error() string { return fmt.Sprint([]fault(fs)) }

// fail records what err says about the value r of s.
func (l *loader) fail(s Setting, r raw, err error) {
	l.bad[s.Key] = true
	var many faults
	if !errors.As(err, &many) {
		many = faults{asFault(err)}
	}
	for _, f := range many {
		from, text := r.from, r.text
		if from.name == "" {
			from.name = s.Key // Validate of a Config that nobody wrote down
		}
		if f.in != nil {
			from.name, text = from.name+"."+f.in.key, f.in.text
			from.line = f.in.line
		}
		p := Problem{Key: s.Key, Source: from.at(), Value: quote(text), Message: f.what + ", want " + s.Allowed, Hint: f.hint}
		if s.secret {
			p.Value = "the value"
		}
		l.problems = append(l.problems, p)
	}
}

// at is String with the line.
func (o origin) at() string {
	if o.line == 0 {
		return o.String()
	}
	return o.String() + ", line " + strconv.Itoa(o.line)
}

// quote shows a value, but not a page of it.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.Quote(strings.ToValidUTF8(s[:most], "")) + "…"
	}
	return strconv.Quote(s)
}

// printable keeps line breaks and escape sequences of foreign text from the terminal.
func printable(s string) string {
	const most = 1000
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
