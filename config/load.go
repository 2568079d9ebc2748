package config

import (
	"errors"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// MaxFile is the largest size of a configuration file in bytes.
const MaxFile = 1 << 20

// loader collects the values and everything that is wrong with them.
type loader struct {
	cfg      *Config
	readFile func(string) ([]byte, error)
	problems Problems
	bad      map[string]bool // settings that have a problem of their own
}

// Load reads the configuration. A flag counts only if it was given and comes from AddFlags; fs may be nil. A variable
// that is empty counts as not set, and so does a YAML key without a value. Warnings are about variables that mean
// nothing here; they come with an error too. The error is a Problems.
func Load(fs *pflag.FlagSet, environ []string, readFile func(string) ([]byte, error)) (*Config, []string, error) {
	if readFile == nil {
		readFile = func(string) ([]byte, error) { return nil, errors.New("files are not read here") }
	}
	l := loader{cfg: &Config{origins: map[string]origin{}}, readFile: readFile, bad: map[string]bool{}}
	flags := fromFlags(fs)
	env, warnings := fromEnviron(environ)

	// Where the file is must be known first, and cannot stand in the file.
	var file map[string]raw
	complete := true
	if r, _ := first(configKey, flags, env); strings.TrimSpace(r.text) != "" {
		file, complete = l.fromFile(strings.TrimSpace(r.text), r.from)
	}
	for _, s := range settings {
		l.set(s, flags, env, file)
	}
	if complete { // what is missing may stand in the part that could not be read
		l.crossCheck()
	}
	if err := l.problems.err(); err != nil {
		return nil, warnings, err
	}
	return l.cfg, warnings, nil
}

// ReadFile is os.ReadFile that stops once a file is too large for Load.
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxFile+1))
}

func (l *loader) set(s Setting, layers ...map[string]raw) {
	r, given := first(s.Key, layers...)
	if given {
		l.cfg.origins[s.Key] = r.from
	} else {
		r = raw{text: s.Default}
	}
	text, err := clean(r.text)
	if path, isFile := strings.CutPrefix(text, "@"); isFile && s.secret && err == nil {
		text, err = l.secretFile(path)
	}
	r.text = text
	if err == nil {
		err = s.field.set(l.cfg, r)
	}
	if err != nil {
		l.fail(s, r, err)
	}
}

func (l *loader) secretFile(path string) (string, error) {
	data, err := l.readFile(path)
	if err != nil {
		return "", fault{what: "cannot be read: " + err.Error()}
	}
	text, err := clean(string(data))
	if err == nil && text == "" {
		// Not the same as no secret: the operator asked for one.
		err = fault{what: "names a file without content: " + quote(path)}
	}
	return text, err
}

// first is the value of the first layer that has one.
func first(key string, layers ...map[string]raw) (raw, bool) {
	for _, layer := range layers {
		if r, ok := layer[key]; ok {
			return r, true
		}
	}
	return raw{}, false
}

func fromFlags(fs *pflag.FlagSet) map[string]raw {
	layer := map[string]raw{}
	if fs == nil {
		return layer
	}
	for _, s := range settings {
		f := fs.Lookup(s.Flag)
		if f == nil || !f.Changed {
			continue
		}
		// A command may have a flag of the same name that means something else, as --region of "backend add".
		if _, ours := f.Value.(*flagValue); ours {
			layer[s.Key] = raw{text: f.Value.String(), from: origin{name: "--" + s.Flag}}
		}
	}
	return layer
}

func fromEnviron(environ []string) (layer map[string]raw, warnings []string) {
	keys := map[string]string{}
	for _, s := range settings {
		keys[s.Env()] = s.Key
	}
	layer = map[string]raw{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) || name == envTests || value == "" {
			continue
		}
		if key, ok := keys[name]; ok {
			layer[key] = raw{text: value, from: origin{name: name}}
			continue
		}
		// Not an error: files written for other versions of the program must keep working. The value is not shown, it may
		// be a secret under a misspelt name.
		warnings = append(warnings, printable(name+": unknown variable, ignored; "+unknownHint(name, Setting.Env)))
	}
	return layer, warnings
}
