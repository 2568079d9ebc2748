package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// fromFile reads the YAML file that from names. complete is false if a part of it stayed unread. Nodes are read instead of Go values
// because a node keeps its line and its text as written (NO is Norway, 007 is a token), and shows keys that stand twice.
func (l *loader) fromFile(path string, from origin) (layer map[string]raw, complete bool) {
	data, err := l.readFile(path)
	if err != nil {
		l.problems = append(l.problems, Problem{
			Key: configKey, Source: from.at(), Value: quote(path), Message: "cannot be read: " + err.Error(),
			Hint: "give the path of a YAML file, or leave it out",
		})
		return nil, false
	}
	root, err := parseYAML(data)
	if err != nil {
		f := asFault(err)
		l.problems = append(l.problems, Problem{Key: configKey, Source: path, Message: f.what, Hint: f.hint})
		return nil, false
	}
	layer = map[string]raw{}
	lines := map[string]int{}
	for i := 0; root != nil && i+1 < len(root.Content); i += 2 {
		if len(l.problems) >= maxProblems {
			l.problems = append(l.problems, Problem{Source: path, Message: "the rest was not read",
				Hint: "is this the right file?"})
			return layer, false
		}
		l.fromNode(layer, lines, path, root.Content[i], root.Content[i+1])
	}
	return layer, true
}

// fromNode adds one key of the file to layer; lines says where earlier ones stand.
func (l *loader) fromNode(layer map[string]raw, lines map[string]int, path string, key, value *yaml.Node) {
	at := origin{name: key.Value, file: path, line: key.Line}
	unusable := func(err error) {
		f := asFault(err) // and no value: under a misspelt key it may be a secret
		l.problems = append(l.problems, Problem{Source: at.at(), Message: f.what, Hint: f.hint})
	}
	name, err := text(key)
	if err != nil {
		at.name = "a key"
		unusable(err)
		return
	}
	if line, twice := lines[name]; twice {
		unusable(fault{what: fmt.Sprintf("stands twice, first in line %d", line), hint: "remove one"})
		return
	}
	lines[name] = key.Line
	s, ok := byFileKey(name)
	if !ok {
		unusable(fault{what: "unknown key", hint: unknownHint(name, Setting.FileKey)})
		return
	}
	if value.Kind == yaml.ScalarNode && value.ShortTag() == "!!null" {
		return // "region:" with nothing behind it is like an empty variable
	}
	r := raw{from: at}
	switch {
	case s.shape == mapping:
		r.pairs, err = pairs(value)
	case s.shape == list && value.Kind == yaml.SequenceNode:
		r.text, err = joined(value)
	default:
		r.text, err = text(value)
	}
	if err != nil {
		f := asFault(err)
		l.bad[s.Key] = true
		l.problems = append(l.problems, Problem{Key: s.Key, Source: at.at(), Message: f.what + ", want " + s.Allowed, Hint: f.hint})
		return
	}
	layer[s.Key] = r
}

func byFileKey(name string) (Setting, bool) {
	for _, s := range settings {
		if s.FileKey() == name && name != "" {
			return s, true
		}
	}
	return Setting{}, false
}

// parseYAML returns the top mapping of the only document in data, nil if there is none.
func parseYAML(data []byte) (root *yaml.Node, err error) {
	if len(data) > MaxFile {
		return nil, fault{what: "is larger than 1 MiB", hint: "is this the right file?"}
	}
	if !utf8.Valid(data) {
		return nil, fault{what: "is not UTF-8 text", hint: "save it as UTF-8; is this the right file?"}
	}
	defer func() {
		// The parser panics where its own state surprises it ("please report"), which a file must not do to us.
		if p := recover(); p != nil {
			root, err = nil, fault{what: fmt.Sprintf("cannot be parsed as YAML: %v", p)}
		}
	}()
	var doc, more yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, syntaxFault(data, err)
	}
	if err := dec.Decode(&more); err == nil {
		return nil, fault{what: fmt.Sprintf("has a second YAML document in line %d", more.Line), hint: "remove the --- line"}
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxFault(data, err)
	}
	root = doc.Content[0]
	switch {
	case root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null":
		return nil, nil
	case root.Kind != yaml.MappingNode:
		return nil, fault{what: "does not hold settings", hint: "write one \"key: value\" a line, e.g. region: sa"}
	}
	return root, nil
}

// unquoted is a value that people write as it is and YAML reads as its own syntax: @file, [::1]:80.
var unquoted = regexp.MustCompile(`:\s+(@|\[[^\]]*\]:)`)

// syntaxFault adds what the parser's words do not say about the mistakes that people make.
func syntaxFault(data []byte, err error) fault {
	f := fault{what: "cannot be parsed as YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	for i, line := range strings.Split(string(data), "\n") {
		indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
		if strings.Contains(indent, "\t") {
			f.hint = fmt.Sprintf("line %d is indented by a tab: use spaces", i+1)
			break
		}
		if unquoted.MatchString(line) {
			f.hint = fmt.Sprintf("put the value in line %d in quotes", i+1)
			break
		}
	}
	return f
}

// text is a scalar as written. Aliases are refused because a few of them can stand for billions of values; nothing here
// is long enough to need one.
func text(n *yaml.Node) (string, error) {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return "", fault{what: "uses a YAML anchor or alias", hint: "write the value itself"}
	case n.Kind == yaml.MappingNode:
		return "", fault{what: "is a mapping"}
	case n.Kind == yaml.SequenceNode:
		return "", fault{what: "is a list"}
	case n.Style&yaml.TaggedStyle != 0:
		return "", fault{what: "has the YAML tag " + quote(n.Tag), hint: "remove it"}
	case n.ShortTag() == "!!null":
		return "", nil
	}
	return n.Value, nil
}

func joined(n *yaml.Node) (string, error) {
	items := make([]string, len(n.Content))
	for i, item := range n.Content {
		var err error
		if items[i], err = text(item); err != nil {
			return "", err
		}
	}
	return strings.Join(items, ","), nil
}

func pairs(n *yaml.Node) ([]pair, error) {
	if n.Kind != yaml.MappingNode {
		return nil, fault{what: "is not a mapping", hint: "indent its entries below it, one \"key: value\" a line"}
	}
	var out []pair
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, err := text(n.Content[i])
		if err != nil {
			return nil, err
		}
		v, err := text(n.Content[i+1])
		if err != nil {
			return nil, err
		}
		out = append(out, pair{key: k, text: v, line: n.Content[i].Line})
	}
	return out, nil
}
