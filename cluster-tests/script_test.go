package clustertests

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
)

// step is one line of a scenario: words, the first of which is what to do.
type step struct {
	line  int
	words []string
}

// String is the step as it is written.
func (s step) String() string {
	var b strings.Builder
	for i, w := range s.words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if w == "" || strings.ContainsFunc(w, func(r rune) bool { return unicode.IsSpace(r) || r == '\'' || r == '#' }) {
			w = "'" + strings.ReplaceAll(w, "'", "''") + "'"
		}
		b.WriteString(w)
	}
	return b.String()
}

// parseScript reads a scenario: a step a line, words between blanks, in 'quotes'
// what holds blanks (two of them for one), and from # to the end of the line is for people.
func parseScript(text string) ([]step, error) {
	var steps []step
	n := 0
	for line := range strings.Lines(text) {
		n++
		words, err := split(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if len(words) > 0 {
			steps = append(steps, step{n, words})
		}
	}
	return steps, nil
}

func split(line string) (words []string, err error) {
	var word strings.Builder
	inWord, quoted := false, false
	rest := []rune(line)
	for i := 0; i < len(rest); i++ {
		r := rest[i]
		switch {
		case r == '\'' && quoted && i+1 < len(rest) && rest[i+1] == '\'':
			word.WriteRune(r)
			i++
		case r == '\'':
			quoted, inWord = !quoted, true
		case quoted:
			word.WriteRune(r)
		case r == '#' || unicode.IsSpace(r):
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
			if r == '#' {
				return words, nil
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quoted {
		return nil, fmt.Errorf("a quote is not closed: %s", strings.TrimSpace(line))
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

func TestParseScript(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"start 3 # three\n\n  cut sa  from us\t\n": "[start 3] [cut sa from us]",
		"sql sa 'UPDATE t SET a=''x'' # no'":       "[sql sa UPDATE t SET a='x' # no]",
		"# nothing":                                "",
		"write sa '' x":                            "[write sa  x]",
		"one'two three'":                           "[onetwo three]",
	} {
		steps, err := parseScript(text)
		var got []string
		for _, s := range steps {
			got = append(got, fmt.Sprint(s.words))
		}
		if g := strings.Join(got, " "); err != nil || g != want {
			t.Errorf("%q: %s, %v, want %s", text, g, err, want)
		}
	}
	if _, err := parseScript("ok\nsql sa 'UPDATE"); err == nil || !strings.HasPrefix(err.Error(), "line 2: a quote is not closed") {
		t.Errorf("an open quote: %v", err)
	}
}

// FuzzParseScript: what is read and written again is read the same.
func FuzzParseScript(f *testing.F) {
	f.Add("start 3\ncut sa 'from us' # so\n")
	f.Fuzz(func(t *testing.T, text string) {
		steps, err := parseScript(text)
		if err != nil {
			return
		}
		for _, s := range steps {
			again, err := parseScript(s.String())
			if strings.ContainsAny(s.String(), "\n") {
				continue // a blank of the kind that ends a line, in quotes
			}
			if err != nil || len(again) != 1 || fmt.Sprintf("%q", again[0].words) != fmt.Sprintf("%q", s.words) {
				t.Fatalf("%q became %q, read again %q, %v", text, s.String(), again, err)
			}
		}
	})
}
