package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// staleAfter is the age of a report from which on others rely on it less.
const staleAfter = 3 * time.Second

// popTable is the POPs as a table.
func popTable(l api.Load) ([]column, [][]cell) {
	columns := []column{{name: "pop"}, {name: "region"}, {name: "state"}, {"rtt", true}, {"lag", true}, {"connections", true}, {"new/s", true}}
	rows := make([][]cell, len(l.POPs))
	for i, p := range l.POPs {
		row := []cell{{text: p.Node}, {text: p.Region}, popState(p), {text: milliseconds(p.RTT)}, {text: milliseconds(p.Lag)}}
		if p.Lag != nil {
			row = append(row, cell{text: count(p.Connections)}, cell{text: perSecond(p.Rate)})
		} else {
			row = append(row, cell{}, cell{})
		}
		rows[i] = row
	}
	return columns, rows
}

func popState(p api.POPLoad) cell {
	switch {
	case p.Status != "alive" && p.Status != "":
		return cell{p.Status, statusColours[p.Status]}
	case p.Lag == nil:
		return cell{"silent", red}
	case *p.Lag > float64(staleAfter.Milliseconds()):
		return cell{"stale", yellow}
	}
	return cell{"alive", green}
}

// backendTable is the backends as a table, in an order of orders.
func backendTable(l api.Load, order string) ([]column, [][]cell) {
	columns := []column{{name: "id"}, {name: "app"}, {name: "region"}, {name: "state"}, {"connections", true}, {"own", true}, {"new/s", true},
		{"soft", true}, {"hard", true}, {"room", true}, {name: "by-pop"}}
	list := slices.Clone(l.Backends)
	slices.SortFunc(list, func(a, b api.BackendLoad) int {
		return cmp.Or(orders[order](a, b), strings.Compare(a.ID, b.ID))
	})
	rows := make([][]cell, len(list))
	for i, b := range list {
		room := cell{}
		if b.Headroom != nil {
			room.text = count(*b.Headroom)
			if *b.Headroom <= 0 {
				room.paint = yellow
			}
		}
		rows[i] = []cell{
			{text: b.ID}, {text: b.App}, {text: b.Region}, {text: b.State, paint: stateColours[b.State]},
			{text: count(b.Connections)}, {text: count(b.Own)}, {text: perSecond(b.Rate)},
			{text: count(b.SoftLimit)}, {text: count(b.HardLimit)}, room, {text: byPOP(b.ByPOP)},
		}
	}
	return columns, rows
}

// orders are the columns by which backends can be sorted: what there is most
// of first, and of room what there is least of.
var orders = map[string]func(a, b api.BackendLoad) int{
	"id":          func(_, _ api.BackendLoad) int { return 0 },
	"app":         func(a, b api.BackendLoad) int { return strings.Compare(a.App, b.App) },
	"region":      func(a, b api.BackendLoad) int { return strings.Compare(a.Region, b.Region) },
	"state":       func(a, b api.BackendLoad) int { return strings.Compare(a.State, b.State) },
	"connections": func(a, b api.BackendLoad) int { return cmp.Compare(b.Connections, a.Connections) },
	"own":         func(a, b api.BackendLoad) int { return cmp.Compare(b.Own, a.Own) },
	"new/s":       func(a, b api.BackendLoad) int { return cmp.Compare(b.Rate, a.Rate) },
	"room":        func(a, b api.BackendLoad) int { return cmp.Compare(room(a), room(b)) },
}

func room(b api.BackendLoad) int64 {
	if b.Headroom == nil {
		return math.MaxInt64
	}
	return *b.Headroom
}

// byPOP is one word, for awk.
func byPOP(counts map[string]int64) string {
	var parts []string
	for _, pop := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s=%d", pop, counts[pop]))
	}
	return strings.Join(parts, ",")
}

func count(n int64) string { return strconv.FormatInt(n, 10) }

func perSecond(rate float64) string { return strconv.FormatFloat(rate, 'f', 1, 64) }

// milliseconds is a duration in ms, empty where there is none.
func milliseconds(ms *float64) string {
	if ms == nil {
		return ""
	}
	return fmt.Sprintf("%.1f ms", max(*ms, 0))
}
