package config

import (
	"errors"
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write testdata/help.golden and the table in docs/configuration.md")

const document = "../docs/configuration.md"

func TestTableIsComplete(t *testing.T) {
	keys, flags := map[string]bool{}, map[string]bool{}
	for _, s := range Settings() {
		if !regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`).MatchString(s.Key) || keys[s.Key] {
			t.Errorf("%q: key is malformed or stands twice", s.Key)
		}
		if s.Flag != "" && (!regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(s.Flag) || flags[s.Flag]) {
			t.Errorf("%s: flag %q is malformed or stands twice", s.Key, s.Flag)
		}
		if (s.Flag == "") != (s.Env() == "") {
			t.Errorf("%s: what has a flag has a variable", s.Key)
		}
		if s.Help == "" || strings.HasSuffix(s.Help, ".") || s.Unit == "" || s.Allowed == "" || (s.Default == "") == (s.Empty == "") {
			t.Errorf("%s: want help, unit, what is allowed, and either a default or what empty means: %+v", s.Key, s)
		}
		keys[s.Key], flags[s.Flag] = true, true
	}
}

func TestFlagNames(t *testing.T) {
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	AddFlags(fs)
	for flag, key := range map[string]string{
		"listen": "listen_addr", "db": "db_path", "region": "region", "db-reload-secs": "db_reload_secs",
		"position": "position", "node": "node_id", "app": "app", "geoip": "geoip_path", "api": "api_addr",
		"access-log": "access_log", "connect-timeout-ms": "connect_timeout_ms", "config": "config",
	} {
		i := slices.IndexFunc(settings, func(s Setting) bool { return s.Flag == flag })
		if i < 0 || settings[i].Key != key || fs.Lookup(flag) == nil {
			t.Errorf("--%s is not %s", flag, key)
		}
	}
	if fs.Lookup("countries") != nil || fs.Lookup("regions") != nil {
		t.Error("a mapping has no flag")
	}
	if err := fs.Parse([]string{"--access-log", "--drain-secs", "1"}); err != nil {
		t.Error(err)
	}
}

func TestAddFlagsRefusesUnknownKeys(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("want a panic")
		}
	}()
	AddFlags(pflag.NewFlagSet("", pflag.ContinueOnError), "regions")
}

func TestUnknownFlag(t *testing.T) {
	for arg, want := range map[string]string{
		"--lisen":         "did you mean --listen?",
		"--listen-addr":   "did you mean --listen?",
		"--geoip_path":    "did you mean --geoip?",
		"--wieght":        "did you mean --weight?", // a flag of the command itself
		"--drain-seconds": "did you mean --drain-secs?",
		"--tls-enabled":   "--help lists the flags",
	} {
		fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		AddFlags(fs)
		fs.Int("weight", 1, "")
		cause := fs.Parse([]string{arg})
		err := FlagError(fs, cause)
		if err == nil || !strings.Contains(err.Error(), arg) || !strings.HasSuffix(err.Error(), want) || !errors.Is(err, cause) {
			t.Errorf("%s: %v, want %q", arg, err, want)
		}
	}
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	for _, args := range [][]string{{"-x"}, {"--app"}, nil} {
		if cause := fs.Parse(args); FlagError(fs, cause) != cause && args[0] != "--app" {
			t.Errorf("%q: changed", args)
		}
	}
}

func TestHelp(t *testing.T) {
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	AddFlags(fs)
	help := fs.FlagUsages()
	lines := strings.Split(help, "\n")
	for _, s := range Settings() {
		if s.Flag == "" {
			continue
		}
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "      --"+s.Flag+" ") })
		if i < 0 {
			t.Errorf("--%s is missing", s.Flag)
			continue
		}
		parts := []string{s.Help, "[" + s.Env() + "]", "(default " + s.Default + s.Empty + ")"}
		if s.Unit != "bool" {
			parts = append(parts, s.Unit)
		}
		for _, part := range parts {
			if strings.Count(lines[i], part) == 0 {
				t.Errorf("want %q in %q", part, lines[i])
			}
		}
	}
	golden(t, "testdata/help.golden", help)
}

func TestReferenceInDocument(t *testing.T) {
	data, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	marked := regexp.MustCompile(`(?s)(<!-- settings: [^\n]*-->\n).*(<!-- end of settings -->)`)
	if len(marked.FindAllString(string(data), -1)) != 1 {
		t.Fatalf("%s has no marked section", document)
	}
	golden(t, document, marked.ReplaceAllStringFunc(string(data), func(section string) string {
		m := marked.FindStringSubmatch(section)
		return m[1] + Reference() + m[2]
	}))
}

// Every row has the six cells of the heading, however a setting is written.
func TestReferenceIsATable(t *testing.T) {
	rows := strings.Split(strings.TrimSuffix(Reference(), "\n"), "\n")
	if len(rows) != 2+len(settings) {
		t.Errorf("%d rows", len(rows))
	}
	for _, row := range rows {
		if bars := strings.Count(row, "|") - strings.Count(row, `\|`); bars != 7 {
			t.Errorf("%d bars in %s", bars, row)
		}
	}
}

func TestExamplesInDocument(t *testing.T) {
	data, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string) string {
		_, rest, _ := strings.Cut(string(data), "```"+kind+"\n")
		text, _, _ := strings.Cut(rest, "```")
		if text == "" {
			t.Fatalf("no %s block", kind)
		}
		return text
	}
	cfg, _, err := load(t, block("yaml"), nil)
	if err != nil || cfg.Countries["TR"] != "eu" || len(cfg.TrustedProxies) != 2 || !cfg.ProxyProtocol {
		t.Errorf("YAML: %+v, %v", cfg, err)
	}
	read := files{"/etc/edgeproxy.token": "secret\n"}.read
	cfg, warnings, err := Load(nil, strings.Split(block("sh"), "\n"), read)
	if err != nil || len(warnings) > 0 || cfg.APIToken != "secret" || cfg.Region != "us" {
		t.Errorf("environment: %+v, %q, %v", cfg, warnings, err)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil || got != string(want) {
		t.Errorf("%s is out of date (%v): look at the change, then run go test ./config -update\n%s", name, err, got)
	}
}
