package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFilesThatAreRefused(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		prev := string(c - 1)
		bomb += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+prev+",", 9) + "]\n"
	}
	for _, tt := range []struct {
		name, yaml string
		want       []string
	}{
		{"unknown key", "region: us\nlisten: :80", []string{"listen in " + path + ", line 2", "did you mean listen_addr?"}},
		{"flag name as key", "db-reload-secs: 1", []string{"did you mean db_reload_secs?"}},
		{"nothing near", "tls_enabled: true", []string{"unknown key", "docs/configuration.md"}},
		{"key of the environment", "config: other.yaml", []string{"EDGEPROXY_CONFIG", "--config"}},
		{"duplicate", "region: us\napp: x\nregion: eu", []string{"line 3", "first in line 1"}},
		{"duplicate country", "countries:\n  BR: sa\n  br: us", []string{"countries.br", "line 3", "twice"}},
		{"list for a word", "region: [us]", []string{"line 1", "is a list"}},
		{"mapping for a word", "region: {a: b}", []string{"line 1", "is a mapping"}},
		{"word for a mapping", "countries: BR", []string{"line 1", "is not a mapping"}},
		{"list for a mapping", "countries: [BR]", []string{"is not a mapping"}},
		{"list of lists", "trusted_proxies: [[10.0.0.1]]", []string{"is a list"}},
		{"mapping of lists", "regions: {eu: [50, 8]}", []string{"is a list", "latitude,longitude"}},
		{"word for a number", "drain_secs: soon", []string{"line 1", `"soon"`, "not a number"}},
		{"bool for a number", "connect_attempts: true", []string{"not a whole number"}},
		{"country without region", "countries:\n  BR:", []string{"countries.BR", "line 2", "not a region code"}},
		{"region without position", "regions:\n  eu: Frankfurt", []string{"regions.eu", "not a position"}},
		{"tag", "app: !!binary aGk=", []string{"tag", "!!binary"}},
		{"alias", "app: &x a\nregion: *x", []string{"line 1", "line 2", "anchor or alias"}},
		{"alias as mapping", "countries: &x {BR: sa}\nregions: *x", []string{"line 2", "is not a mapping"}},
		{"merge key", "<<: {region: us}", []string{"unknown key"}},
		{"bomb", bomb, []string{"unknown key"}},
		{"tab", "countries:\n\tBR: sa", []string{"line 2 is indented by a tab"}},
		{"token file without quotes", "region: us\napi_token: @/etc/token", []string{"line 2 in quotes"}},
		{"IPv6 without quotes", "region: us\nlisten_addr: [::1]:80", []string{"line 2 in quotes"}},
		{"syntax", "region: 'us", []string{"cannot be parsed as YAML"}},
		{"key that is a list", "? [a]\n: b", []string{"a key in " + path + ", line 1", "is a list"}},
		{"list at the top", "- region: us", []string{"does not hold settings"}},
		{"word at the top", "region", []string{"does not hold settings"}},
		{"two documents", "region: us\n---\nregion: eu", []string{"second YAML document"}},
		{"broken second document", "region: us\n---\n'", []string{"cannot be parsed"}},
		{"not UTF-8", "region: \xe9", []string{"not UTF-8"}},
		{"UTF-16", "\xff\xfer\x00:\x00", []string{"not UTF-8"}},
		{"NUL", "region: \x00", []string{"cannot be parsed"}},
		{"control character by escape", `app: "a\x07"`, []string{"control character"}},
		{"10 MB", strings.Repeat("# padding\n", 1<<20), []string{"larger than 1 MiB"}},
	} {
		_, _, err := load(t, tt.yaml, nil)
		if err == nil {
			t.Errorf("%s: no error", tt.name)
			continue
		}
		for _, part := range tt.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: want %q in\n%v", tt.name, part, err)
			}
		}
	}
}

func TestFilesWithNothingInThem(t *testing.T) {
	for _, yaml := range []string{"\n", "# region: us\n", "---\n", "---\n...\n", "{}", "~", "\ufeff", "region:\ncountries:\ntrusted_proxies: ~\n"} {
		if cfg, _, err := load(t, yaml, nil); err != nil || cfg.Region != "sa" || cfg.Explicit("region") {
			t.Errorf("%q: %v", yaml, err)
		}
	}
}

func TestMissingFile(t *testing.T) {
	_, _, err := load(t, "", []string{"--config", "/nowhere.yaml"}, "EDGEPROXY_REGION=!")
	for _, part := range []string{"--config", "/nowhere.yaml", "does not exist", "EDGEPROXY_REGION"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("want %q in %v", part, err)
		}
	}
}

// The wrong file must be refused in few words, whatever it is, and without a hang. No clock here: on a busy machine it
// would measure the others. A hang ends in the timeout of go test. The CPU time of these shapes was measured from 128 KiB
// to 1 MiB: it grows linearly, to 0.5 s at most; what our own code must bound is tried in full size.
func TestHostileFilesAreRefusedBriefly(t *testing.T) {
	const size = 64 << 10
	fill := func(s string) string { return strings.Repeat(s, size/len(s)) }
	var keys, countries strings.Builder
	for i := 0; keys.Len() < MaxFile-64; i++ {
		fmt.Fprintf(&keys, "region%d:\n", i)
	}
	countries.WriteString("countries:\n")
	for i := 0; countries.Len() < MaxFile-64; i++ {
		fmt.Fprintf(&countries, " C%d: sa\n", i)
	}
	for name, yaml := range map[string]string{
		"flow lists":   fill("["),
		"flow maps":    fill("{a: "),
		"block lists":  fill("- "),
		"complex keys": fill("? "),
		"one word":     fill("a"),
		"one long key": strings.Repeat("a", 1000) + ": b",
		"quotes":       fill(`"`),
		"entries":      fill("-\n"),
		"indents":      "a:\n" + fill(" ") + "b: c",
		"same key":     fill("a: b\n"),
		"aliases":      "a: &a b\nc: [" + fill("*a,") + "]",
		"anchors":      "a: [" + fill("&a b,") + "]",
		"other keys":   keys.String(),
		"countries":    countries.String(),
	} {
		_, _, err := load(t, yaml, nil)
		if err == nil || len(err.Error()) > 40<<10 || strings.Count(err.Error(), "\n") > maxProblems+1 {
			t.Errorf("%s: want a few lines, got %v", name, err)
		}
	}
	if _, _, err := load(t, "region: us\n"+strings.Repeat("# padding\n", (MaxFile-11)/10), nil); err != nil {
		t.Errorf("a file of almost 1 MiB: %v", err)
	}
}

func TestReadFileStopsBehindTheLimit(t *testing.T) {
	name := filepath.Join(t.TempDir(), "big.yaml")
	if err := os.WriteFile(name, make([]byte, 10<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := ReadFile(name)
	if err != nil || len(data) <= MaxFile || len(data) > 2*MaxFile {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if _, err := ReadFile(name + ".missing"); err == nil {
		t.Error("want an error")
	}
}
