// Package certs holds the certificates in one directory, for services that
// terminate TLS, and follows the files as they are replaced.
//
//	store, err := certs.Open("/etc/edgeproxy/certs", log)
//	go store.Run(ctx) // looks once a second
//	config := &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
//		return store.GetCertificate(hello, []string{"www.example.com"})
//	}}
//
// A certificate is name.crt or name.pem, with its chain, and its key name.key
// beside it or in the same file; or fullchain.pem and privkey.pem, as certbot
// has them. They stand in the directory or in the ones right below it (so that
// certbot's live directory and mounted Kubernetes secrets do as they are).
// Which names one serves is read from the certificate, never from its file's
// name. What begins with a dot is passed over.
//
// A file that is broken, half-written or does not belong to its key leaves the
// last good certificate of that name in use and is among Problems. A handshake
// takes no lock and never waits for a file. The package does not order
// certificates and does not verify their chains: clients do.
package certs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

const (
	interval = time.Second
	soon     = 14 * 24 * time.Hour // before its end a certificate is warned of
	again    = 24 * time.Hour      // how often
	settled  = 2 * time.Second     // a file younger than that may change without its times showing it
)

// Store is a directory's certificates. Make one with Open.
type Store struct {
	dir      string
	log      zerolog.Logger
	now      func() time.Time
	index    atomic.Pointer[index]
	problems atomic.Pointer[[]Problem] // by file

	mu    sync.Mutex // one scan at a time, however long the files take; it guards the following
	pairs map[string]*pair
}

// Problem is what is wrong with a file. What it held before, if anything, is in use.
type Problem struct {
	File    string // as seen from the directory; "." is that itself
	Message string
}

// Info is one certificate in use.
type Info struct {
	File     string // of the certificate, as seen from the directory
	Names    []string
	Key      string // its algorithm
	NotAfter time.Time
}

// Open reads the directory. It fails only where that cannot be read at all.
func Open(dir string, log zerolog.Logger) (*Store, error) {
	s := newStore(dir, log, time.Now)
	if err := s.scan(); err != nil {
		return nil, fmt.Errorf("certificates: %w: give cert_dir a directory that this user can read", err)
	}
	return s, nil
}

func newStore(dir string, log zerolog.Logger, now func() time.Time) *Store {
	s := &Store{dir: dir, log: log, now: now, pairs: map[string]*pair{}}
	s.index.Store(&index{})
	s.problems.Store(&[]Problem{})
	return s
}

// Run follows the directory until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.Reload()
		}
	}
}

// Reload looks at the directory now.
func (s *Store) Reload() {
	if err := s.scan(); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.report([]Problem{{File: ".", Message: reason(err).Error()}}) // all that was loaded stays
	}
}

// Problems returns what is wrong now, by file.
func (s *Store) Problems() []Problem {
	return slices.Clone(*s.problems.Load())
}

// Info returns the certificates in use, by file.
func (s *Store) Info() []Info {
	var all []Info
	for _, c := range s.index.Load().all {
		all = append(all, Info{File: c.file, Names: slices.Clone(c.cert.Leaf.DNSNames), Key: c.algorithm(), NotAfter: c.cert.Leaf.NotAfter})
	}
	return all
}

// scan loads what has changed, and publishes it if anything has.
func (s *Store) scan() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := find(s.dir)
	if err != nil {
		return err
	}
	now := s.now()
	changed := s.forget(found)
	var problems []Problem
	for _, f := range found {
		p := s.pairs[f.file]
		if p == nil {
			p = &pair{file: f.file}
			s.pairs[f.file] = p
		}
		p.missed = false
		if !p.current(f, now) && p.load(f, now) {
			changed = true
			s.log.Info().Str("file", p.file).Strs("names", p.good.cert.Leaf.DNSNames).Time("not_after", p.good.cert.Leaf.NotAfter).Msg("certificate loaded")
		}
		if p.good != nil {
			if valid := p.good.valid(now); valid != p.valid {
				p.valid, changed = valid, true
			}
			s.warnOfEnd(p, now)
		}
		problems = append(problems, p.problems(now)...)
	}
	s.report(problems)
	if changed {
		s.index.Store(newIndex(s.pairs))
	}
	return nil
}

// forget drops what was not found, and says whether it did. It waits for a
// second look: a file that is removed to be written anew is missed for a moment.
func (s *Store) forget(found []sources) (changed bool) {
	there := make(map[string]bool, len(found))
	for _, f := range found {
		there[f.file] = true
	}
	for file, p := range s.pairs {
		switch {
		case there[file]:
		case !p.missed:
			p.missed = true
		default:
			delete(s.pairs, file)
			if p.good != nil {
				s.log.Info().Str("file", file).Strs("names", p.good.cert.Leaf.DNSNames).Msg("certificate removed")
				changed = true
			}
		}
	}
	return changed
}

// report keeps the problems, and logs those that are new.
func (s *Store) report(problems []Problem) {
	slices.SortFunc(problems, func(a, b Problem) int { return strings.Compare(a.File+a.Message, b.File+b.Message) })
	known := *s.problems.Load()
	for _, p := range problems {
		if !slices.Contains(known, p) {
			s.log.Warn().Str("file", filepath.Join(s.dir, p.File)).Str("problem", p.Message).Msg("certificate file")
		}
	}
	s.problems.Store(&problems)
}

// warnOfEnd logs once a day that a certificate ends soon, or has.
func (s *Store) warnOfEnd(p *pair, now time.Time) {
	end := p.good.cert.Leaf.NotAfter
	if end.Sub(now) > soon || !p.warned.IsZero() && now.Sub(p.warned) < again {
		return
	}
	p.warned = now
	message := "certificate expires soon"
	if !now.Before(end) {
		message = "certificate has expired"
	}
	s.log.Warn().Str("file", p.file).Strs("names", p.good.cert.Leaf.DNSNames).Time("not_after", end).Msg(message)
}

// readable is like os.ReadDir, without what begins with a dot.
func readable(dir string) ([]os.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	return slices.DeleteFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") }), err
}
