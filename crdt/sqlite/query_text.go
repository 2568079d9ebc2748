package sqlite

import (
	"fmt"
	"slices"
	"strings"
)

// token is a word, a quoted text or a sign of a statement.
type token struct{ start, end int }

// tokenize cuts a statement into tokens as SQLite does, as far as it matters
// where one statement ends; open is what is not closed.
func tokenize(s string) (tokens []token, open string) {
	for i := 0; i < len(s); {
		c := s[i]
		start := i
		switch {
		case c == ' ' || '\t' <= c && c <= '\r':
			i++
			continue
		case strings.HasPrefix(s[i:], "--"):
			i = upTo(s, i, "\n")
			continue
		case strings.HasPrefix(s[i:], "/*") && len(s) > i+2:
			i = upTo(s, i+2, "*/") // SQLite closes the last one by itself
			continue
		case c == '\'' || c == '"' || c == '`':
			if i = quoteEnd(s, i, c); i < 0 {
				return tokens, string(c)
			}
		case c == '[':
			n := strings.IndexByte(s[i:], ']')
			if n < 0 {
				return tokens, "["
			}
			i += n + 1
		case wordly(c):
			for i < len(s) && (wordly(s[i]) || s[i] == '$') {
				i++
			}
		default:
			i++
		}
		tokens = append(tokens, token{start, i})
	}
	return tokens, ""
}

func upTo(s string, from int, end string) int {
	n := strings.Index(s[from:], end)
	if n < 0 {
		return len(s)
	}
	return from + n + len(end)
}

// quoteEnd is behind the text that begins with a quote at i; inside it two
// quotes are one. -1: it does not end.
func quoteEnd(s string, i int, quote byte) int {
	for i++; i < len(s); i++ {
		if s[i] != quote {
			continue
		}
		if i+1 == len(s) || s[i+1] != quote {
			return i + 1
		}
		i++
	}
	return -1
}

func wordly(c byte) bool {
	return c == '_' || c >= 0x80 || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// beginnings are the first words of statements that may read only.
var beginnings = []string{"SELECT", "WITH", "VALUES", "EXPLAIN", "PRAGMA"}

// admitQuery finds the statement in s, without what is behind its semicolon:
// the drivers take even a comment there for a statement, whose empty answer
// would be the one they give. It refuses what is no single statement that may
// read only. The authorizer has the last word; this one has the clearer ones.
func admitQuery(s string) (statement string, err error) {
	if len(s) > maxQuery {
		return "", fmt.Errorf("%w: the statement is %d bytes long, at most %d are allowed", ErrRefused, len(s), maxQuery)
	}
	if strings.ContainsRune(s, 0) {
		return "", fmt.Errorf("%w: the statement holds a NUL character", ErrRefused)
	}
	tokens, open := tokenize(s)
	if open != "" {
		return "", fmt.Errorf("%w: a %s is not closed", ErrStatement, open)
	}
	statement = s
	var words []string
	for _, t := range tokens {
		switch text := s[t.start:t.end]; {
		case text == ";":
			statement = s[:min(len(statement), t.start)]
		case len(statement) < len(s):
			return "", fmt.Errorf("%w: more than one statement", ErrRefused)
		case text == "?" || text == "@" || text == "$" || text == ":":
			return "", fmt.Errorf("%w: %s stands for a value that nobody gives: write the value", ErrStatement, text)
		case len(words) < 4:
			words = append(words, strings.ToUpper(text))
		}
	}
	if len(words) == 0 {
		return "", fmt.Errorf("%w: the statement is empty", ErrStatement)
	}
	if words[0] == "EXPLAIN" {
		words = words[1:]
		if len(words) > 1 && words[0] == "QUERY" && words[1] == "PLAN" {
			words = words[2:]
		}
		if len(words) > 0 && words[0] == "EXPLAIN" {
			return statement, nil // SQLite says what is wrong
		}
	}
	if len(words) > 0 && !slices.Contains(beginnings, words[0]) {
		return "", fmt.Errorf("%w: %s: a query only reads, and begins with %s", ErrRefused, clip(words[0]), strings.Join(beginnings, ", "))
	}
	return statement, nil
}
