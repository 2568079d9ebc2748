package config

import "strings"

// candidate is a name that exists: how to show it, and under which names people look for it.
type candidate struct {
	shown string
	names []string
}

// unknownHint says what to write instead of a name that does not exist. shown is how a setting is written where the
// name stands, "" for settings that cannot stand there.
func unknownHint(name string, shown func(Setting) string) string {
	var in []candidate
	for _, s := range settings {
		names := []string{shown(s), s.Key, s.Flag}
		if shown(s) != "" {
			in = append(in, candidate{shown(s), names})
		} else if fold(name) == s.Key {
			return elsewhere(s)
		}
	}
	if best := nearest(name, in); best != "" {
		return "did you mean " + best + "?"
	}
	return "docs/configuration.md lists what there is"
}

func elsewhere(s Setting) string {
	if s.shape == mapping {
		return s.Key + " can only stand in the YAML file"
	}
	return s.Key + " cannot stand in the YAML file, use --" + s.Flag + " or " + s.Env()
}

// nearest returns the candidate that name most likely means, "" if none is near: a wrong guess is worse than none.
func nearest(name string, in []candidate) string {
	name = fold(name)
	if len(name) > 64 {
		return "" // not a slip of the finger, and comparing costs its length
	}
	limit := min(3, (len(name)+2)/4)
	best, bestDistance := "", limit+1
	for _, c := range in {
		for _, n := range c.names {
			n = fold(n)
			d := distance(name, n)
			if strings.HasPrefix(n, name+"_") {
				d = min(d, 1) // the rest was forgotten: db_reload for db_reload_secs
			}
			if n != "" && d < bestDistance {
				best, bestDistance = c.shown, d
			}
		}
	}
	return best
}

// fold makes EDGEPROXY_DB_PATH, --db-path and db_path the same name.
func fold(name string) string {
	name = strings.ReplaceAll(strings.TrimLeft(strings.ToLower(name), "-"), "-", "_")
	return strings.TrimPrefix(name, strings.ToLower(envPrefix))
}

// distance is the number of bytes to insert, delete, replace or swap with their neighbour that turn a into b (optimal
// string alignment; Boytsov 2011, "Indexing methods for approximate dictionary searching").
func distance(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := d[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
