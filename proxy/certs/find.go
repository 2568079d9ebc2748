package certs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sources is where a certificate and its key are read.
type sources struct {
	file     string // of the certificate, in the directory
	keyFile  string // of the key; the same where one file holds both
	cert     string // their paths
	key      string
	certInfo os.FileInfo // nil: it could not be asked for
	keyInfo  os.FileInfo
	alone    bool // a key without certificate
}

// find lists what the directory and those right below it hold, by file.
func find(dir string) ([]sources, error) {
	entries, err := readable(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	var all []sources
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err != nil || !info.IsDir() {
			names = append(names, e.Name())
			continue
		}
		below, err := readable(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // not ours: lost+found and the like
		}
		var inside []string
		for _, e := range below {
			inside = append(inside, e.Name())
		}
		all = append(all, pairUp(dir, e.Name(), inside)...)
	}
	all = append(all, pairUp(dir, "", names)...)
	slices.SortFunc(all, func(a, b sources) int { return strings.Compare(a.file, b.file) })
	return all, nil
}

// pairUp joins the files of one directory.
func pairUp(dir, below string, names []string) []sources {
	all := make(map[string]bool, len(names))
	for _, name := range names {
		all[name] = true
	}
	has := func(name string) bool { return all[name] }
	var pairs []sources
	add := func(cert, key string) {
		s := sources{file: filepath.Join(below, cert), keyFile: filepath.Join(below, key), alone: cert == key && strings.HasSuffix(key, ".key")}
		s.cert, s.key = filepath.Join(dir, s.file), filepath.Join(dir, s.keyFile)
		s.certInfo, _ = os.Stat(s.cert) // reading it says why
		s.keyInfo, _ = os.Stat(s.key)
		pairs = append(pairs, s)
	}
	certbot := has("fullchain.pem") && has("privkey.pem")
	if certbot {
		add("fullchain.pem", "privkey.pem")
	}
	for _, name := range names {
		ext := filepath.Ext(name)
		base := strings.TrimSuffix(name, ext)
		switch {
		case certbot && slices.Contains([]string{"cert.pem", "chain.pem", "fullchain.pem", "privkey.pem"}, name):
		case ext == ".crt" && has(base+".key"), ext == ".pem" && has(base+".key") && !has(base+".crt"):
			add(name, base+".key")
		case ext == ".crt", ext == ".pem":
			add(name, name)
		case ext == ".key" && !has(base+".crt") && !has(base+".pem"):
			add(name, name)
		}
	}
	return pairs
}

// same says whether two looks at a path saw the same file, unchanged.
func same(a, b os.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && a.Mode() == b.Mode()
}
