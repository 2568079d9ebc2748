package config

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/pflag"
)

// flagValue keeps the text of a flag. Load parses it, so that a bad flag is reported together with everything else.
type flagValue struct{ text, unit string }

func (v *flagValue) String() string { return v.text }

func (v *flagValue) Set(text string) error {
	v.text = text
	return nil
}

// Type is the placeholder in the help.
func (v *flagValue) Type() string { return v.unit }

// AddFlags registers the flags of the settings with these keys, or of all settings if none is named, and --config. It
// panics on a key that does not exist.
func AddFlags(fs *pflag.FlagSet, keys ...string) {
	for _, key := range keys {
		if !slices.ContainsFunc(settings, func(s Setting) bool { return s.Key == key && s.Flag != "" }) {
			panic("config: no flag for key " + key)
		}
	}
	for _, s := range settings {
		if s.Flag == "" || len(keys) > 0 && s.Key != configKey && !slices.Contains(keys, s.Key) {
			continue
		}
		usage := fmt.Sprintf("%s [%s] (default %s)", s.Help, s.Env(), s.shownDefault())
		f := fs.VarPF(&flagValue{s.Default, s.Unit}, s.Flag, "", usage)
		f.DefValue = "" // pflag leaves out defaults such as false; the usage has them all
		if s.Unit == "bool" {
			f.NoOptDefVal = "true"
		}
	}
}

// FlagError adds the nearest flag that exists to the error that fs.Parse returns for one that does not. It fits cobra's
// SetFlagErrorFunc.
func FlagError(fs *pflag.FlagSet, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return err
	}
	var in []candidate
	fs.VisitAll(func(f *pflag.Flag) {
		c := candidate{"--" + f.Name, []string{f.Name}}
		for _, s := range settings {
			if _, ours := f.Value.(*flagValue); ours && s.Flag == f.Name {
				c.names = append(c.names, s.Key)
			}
		}
		in = append(in, c)
	})
	if best := nearest(unknown.GetSpecifiedName(), in); best != "" {
		return fmt.Errorf("%w; did you mean %s?", err, best)
	}
	return fmt.Errorf("%w; --help lists the flags", err)
}

func (s Setting) shownDefault() string {
	if s.Default == "" {
		return s.Empty
	}
	return s.Default
}
