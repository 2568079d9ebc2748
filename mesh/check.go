package mesh

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// CheckKind is how a backend's health is asked for.
type CheckKind string

const (
	CheckTCP  CheckKind = "tcp"  // it accepts a connection
	CheckHTTP CheckKind = "http" // it answers GET path with an expected status
	CheckOff  CheckKind = "off"  // nobody asks: the operator's word alone counts
)

// Check says how a backend is checked. Interval, timeout, rise and fall mean
// what they mean in HAProxy.
type Check struct {
	Kind     CheckKind
	Port     uint16 // 0: the backend's own
	Interval time.Duration
	Timeout  time.Duration // of one check
	Rise     int           // successes in a row until it is up
	Fall     int           // failures in a row until it is down

	// Of CheckHTTP.
	Path        string
	Host        string // header; empty: the address
	From, Below int    // statuses from From up to, not including, Below
}

// DefaultCheck is that of a backend for which nobody says anything else.
var DefaultCheck = Check{Kind: CheckTCP, Interval: 5 * time.Second, Timeout: 2 * time.Second, Rise: 2, Fall: 3}

// Bounds of a check that anybody may write into a row.
const (
	minInterval, maxInterval = 200 * time.Millisecond, time.Hour
	minTimeout, maxTimeout   = 10 * time.Millisecond, time.Minute
	maxCount                 = 100
	maxCheck                 = 1024 // bytes of the whole text
)

// checkRule ends every error of ParseCheck, for whoever has to mend the row.
const checkRule = `want off, tcp or http, and behind it any of port=8081 interval=5s timeout=2s rise=2 fall=3, with http also path=/health status=200-399 host=name`

// ParseCheck reads what stands in a column health_check:
//
//	off
//	tcp interval=2s
//	http path=/health status=200-299 interval=5s timeout=2s rise=2 fall=3 port=8081 host=example.net
//
// What is left out is as in DefaultCheck; path is /, status 200-399.
func ParseCheck(text string) (Check, error) {
	c, err := parseCheck(text)
	if err != nil {
		return Check{}, fmt.Errorf("%q: %w; %s", clip(text), err, checkRule)
	}
	return c, nil
}

func parseCheck(text string) (Check, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return Check{}, fmt.Errorf("is empty")
	}
	if len(text) > maxCheck {
		return Check{}, fmt.Errorf("is %d bytes long, at most %d are allowed", len(text), maxCheck)
	}
	if CheckKind(words[0]) == CheckOff {
		if len(words) > 1 {
			return Check{}, fmt.Errorf("off has no options")
		}
		return Check{Kind: CheckOff}, nil
	}
	c := DefaultCheck
	switch c.Kind = CheckKind(words[0]); c.Kind {
	case CheckTCP:
	case CheckHTTP:
		c.Path, c.From, c.Below = "/", 200, 400
	default:
		return Check{}, fmt.Errorf("%s is no check", clip(words[0]))
	}
	seen := map[string]bool{}
	for _, word := range words[1:] {
		key, value, ok := strings.Cut(word, "=")
		if !ok {
			return Check{}, fmt.Errorf("%s is no option", clip(word))
		}
		if seen[key] {
			return Check{}, fmt.Errorf("%s stands twice", clip(key))
		}
		seen[key] = true
		if err := c.set(key, value); err != nil {
			return Check{}, fmt.Errorf("%s: %w", clip(key), err)
		}
	}
	if n := len(c.String()); n > maxCheck { // 1h is written as 1h0m0s
		return Check{}, fmt.Errorf("is %d bytes long written in full, at most %d are allowed", n, maxCheck)
	}
	return c, nil
}

func (c *Check) set(key, value string) (err error) {
	switch key {
	case "port":
		var port int
		port, err = number(value, 1, 65535)
		c.Port = uint16(port)
	case "interval":
		c.Interval, err = span(value, minInterval, maxInterval)
	case "timeout":
		c.Timeout, err = span(value, minTimeout, maxTimeout)
	case "rise":
		c.Rise, err = number(value, 1, maxCount)
	case "fall":
		c.Fall, err = number(value, 1, maxCount)
	default:
		if c.Kind != CheckHTTP {
			return fmt.Errorf("is no option of %s", c.Kind)
		}
		return c.setHTTP(key, value)
	}
	return err
}

func (c *Check) setHTTP(key, value string) (err error) {
	switch key {
	case "path":
		if _, err := url.ParseRequestURI(value); err != nil || !strings.HasPrefix(value, "/") || strings.Contains(value, "#") || strings.ContainsFunc(value, notVisible) {
			return fmt.Errorf("%s is no path: it begins with / and is escaped as in a URL", clip(value))
		}
		c.Path = value
	case "host":
		if value == "" || len(value) > MaxName || strings.ContainsAny(value, `/\@?#`) || strings.ContainsFunc(value, notVisible) {
			return fmt.Errorf("%s is no host name", clip(value))
		}
		c.Host = value
	case "status":
		from, to, ranged := strings.Cut(value, "-")
		if c.From, err = number(from, 100, 599); err != nil {
			return err
		}
		last := c.From
		if ranged {
			if last, err = number(to, c.From, 599); err != nil {
				return err
			}
		}
		c.Below = last + 1
	default:
		return fmt.Errorf("is no option of %s", c.Kind)
	}
	return nil
}

// notVisible: what could end a line of a request, or hide in one.
func notVisible(r rune) bool { return r <= ' ' || r > unicode.MaxASCII || r == 0x7f }

func number(s string, least, most int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s is not a whole number from %d to %d", clip(s), least, most)
	}
	return n, nil
}

func span(s string, least, most time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < least || d > most {
		return 0, fmt.Errorf("%s is not a time from %s to %s, such as 5s or 500ms", clip(s), least, most)
	}
	return d, nil
}

// String is the check as ParseCheck reads it, with what differs from the default.
func (c Check) String() string {
	var b strings.Builder
	b.WriteString(string(c.Kind))
	if c.Kind == CheckOff {
		return b.String()
	}
	option := func(differs bool, key string, value any) {
		if differs {
			fmt.Fprintf(&b, " %s=%v", key, value)
		}
	}
	d := DefaultCheck
	if c.Kind == CheckHTTP {
		option(c.Path != "/", "path", c.Path)
		if c.Below == c.From+1 {
			option(true, "status", c.From)
		} else {
			option(c.From != 200 || c.Below != 400, "status", fmt.Sprintf("%d-%d", c.From, c.Below-1))
		}
		option(c.Host != "", "host", c.Host)
	}
	option(c.Port != 0, "port", c.Port)
	option(c.Interval != d.Interval, "interval", c.Interval)
	option(c.Timeout != d.Timeout, "timeout", c.Timeout)
	option(c.Rise != d.Rise, "rise", c.Rise)
	option(c.Fall != d.Fall, "fall", c.Fall)
	return b.String()
}
