package lab

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Step is one line of a script: a verb and what it is done to. Left out, the
// lab chooses by its seed.
type Step struct {
	Verb string
	Args []string
}

func (s Step) String() string { return strings.Join(append([]string{s.Verb}, s.Args...), " ") }

// verb is a word of the script language.
type verb struct {
	name string
	args string // what may follow
	most int
	help string
}

var verbs = []verb{
	{"kill", "[BACKEND]", 1, "a backend dies; its clients must not notice"},
	{"revive", "[BACKEND]", 1, "it comes back at its address; clients must return to it"},
	{"cut", "[POP]", 1, "a POP is cut off the mesh, streams and gossip; both sides must serve"},
	{"heal", "[POP]", 1, "it is put back; what both sides wrote must be on all"},
	{"weight", "[BACKEND [N]]", 2, "a weight is changed on one POP; shares must follow on all"},
	{"drain", "[REGION]", 1, "a region is drained on one POP; it must get nobody new"},
	{"undrain", "[REGION]", 1, "the drain ends; clients must return"},
	{"join", "", 0, "one more POP joins; it must serve"},
	{"wait", "DURATION", 1, "nothing, for a while: 500ms, 2s"},
}

// ScriptHelp lists the verbs for people.
func ScriptHelp() string {
	var b strings.Builder
	for _, v := range verbs {
		fmt.Fprintf(&b, "  %-22s  %s\n", strings.TrimSpace(v.name+" "+v.args), v.help)
	}
	return b.String()
}

// ParseScript reads steps, one a line or separated by commas; # begins a comment.
func ParseScript(text string) ([]Step, error) {
	var steps []Step
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		for part := range strings.SplitSeq(line, ",") {
			fields := strings.Fields(part)
			if len(fields) == 0 {
				continue
			}
			s := Step{Verb: fields[0], Args: fields[1:]}
			if err := s.check(); err != nil {
				return nil, fmt.Errorf("line %d, %q: %w", number, s, err)
			}
			steps = append(steps, s)
		}
	}
	if len(steps) == 0 {
		return nil, errors.New("it holds no steps")
	}
	return steps, nil
}

// mostWeight leaves a crowd below the hard limit of the backend that has it.
const mostWeight = 10

func (s Step) check() error {
	i := slices.IndexFunc(verbs, func(v verb) bool { return v.name == s.Verb })
	if i < 0 {
		names := make([]string, len(verbs))
		for i, v := range verbs {
			names[i] = v.name
		}
		return fmt.Errorf("no such step, and no file: choose of %s", strings.Join(names, ", "))
	}
	if len(s.Args) > verbs[i].most {
		return fmt.Errorf("too many words: %s %s", s.Verb, verbs[i].args)
	}
	if s.Verb == "wait" {
		if _, err := s.pause(); err != nil {
			return err
		}
	}
	if s.Verb == "weight" && len(s.Args) == 2 {
		if n, err := strconv.ParseInt(s.Args[1], 10, 32); err != nil || n < 1 || n > mostWeight {
			return fmt.Errorf("weight %q: want 1 to %d", s.Args[1], mostWeight)
		}
	}
	return nil
}

// pause is how long a wait lasts.
func (s Step) pause() (time.Duration, error) {
	if len(s.Args) == 0 {
		return 0, fmt.Errorf("how long? such as wait 2s")
	}
	d, err := time.ParseDuration(s.Args[0])
	if err != nil || d < 0 || d > time.Hour {
		return 0, fmt.Errorf("%q is no duration up to 1h, such as 500ms or 2s", s.Args[0])
	}
	return d, nil
}

// arg is the i-th word after the verb; empty: the lab chooses.
func (s Step) arg(i int) string {
	if i < len(s.Args) {
		return s.Args[i]
	}
	return ""
}

// part is a piece of the default story that makes sense by itself.
type part struct {
	name  string
	steps []Step
	takes time.Duration // about
	tail  time.Duration // what it begins has ended so long after its start
	pops  int           // that it needs at least,
	nodes int           // and backends
}

// parts are the default story. A backend that is back is tried again ten
// seconds after it was given up: the long tail of the first.
var parts = []part{
	{"a backend dies and comes back", []Step{{Verb: "kill"}, {Verb: "revive"}}, 2 * time.Second, 14 * time.Second, 1, 2},
	{"a POP is cut off and put back", []Step{{Verb: "cut"}, {Verb: "heal"}}, 4 * time.Second, 0, 2, 1},
	{"a weight changes", []Step{{Verb: "weight"}}, 3 * time.Second, 0, 1, 1},
	{"a region is drained", []Step{{Verb: "drain"}, {Verb: "undrain"}}, 3 * time.Second, 0, 2, 2},
	{"another POP joins", []Step{{Verb: "join"}}, 3 * time.Second, 0, 1, 1},
}

// plan chooses the parts that fit into a lab of some length, in their order,
// and names the others with why.
func plan(length time.Duration, pops, backends int) (steps []Step, left []string) {
	const between = 300 * time.Millisecond
	at := 500 * time.Millisecond
	steps = []Step{{"wait", []string{at.String()}}}
	for _, p := range parts {
		switch {
		case pops < p.pops || backends < p.nodes:
			left = append(left, fmt.Sprintf("%s: needs %d POPs and %d backends", p.name, p.pops, p.nodes))
		case at+max(p.takes, p.tail) > length:
			left = append(left, fmt.Sprintf("%s: needs %s more", p.name, (at+max(p.takes, p.tail)-length).Round(100*time.Millisecond)))
		default:
			steps = append(append(steps, p.steps...), Step{"wait", []string{between.String()}})
			at += p.takes + between
		}
	}
	return steps, left
}
