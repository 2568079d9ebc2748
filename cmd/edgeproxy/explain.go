package main

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/spf13/cobra"
)

func newExplain(c *cli) *cobra.Command {
	t := &target{cli: c}
	var app string
	cmd := &cobra.Command{
		Use:     "explain IP",
		GroupID: groupAsk,
		Short:   "Say to which backend a client would go, and why",
		Long: `Says where a POP would send a client with this address now, and lists the
backends it looked at, best first. Nothing is reserved and nothing changes.

  tier         0 the client's region, 1 the POP's own, 2 any other; a nearer
               tier always goes first
  connections  open now, through all POPs
  load         connections / soft limit
  score        100 x region score (the tier, in tier 2 plus the distance divided
               by 20,000 km) + load / weight; the lowest wins, among equal ones
               chance decides
  excluded     why a backend takes no new connections: unhealthy (healthy = 0),
               down (checks say so), ejected (connects failed), expired (its
               heartbeats have ended), failing (its agent says so), deleted,
               draining, full (at its hard limit) or loop (it is a POP, and so is
               the client)
  why          which POPs say so, since when

Without a running POP (--db) there are no connections and no bound clients, and
the POP's region is EDGEPROXY_REGION, its app EDGEPROXY_APP.` + targetHelp,
		Example: `  edgeproxy explain 200.160.2.3
  edgeproxy explain 2001:db8::1 --app myapp --json
  EDGEPROXY_REGION=us edgeproxy explain 200.160.2.3 --db routing.db`,
		Args:              takes("an IP address"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := netip.ParseAddr(args[0])
			if err != nil || client.Zone() != "" {
				return usagef("%q is not an IP address, such as 200.160.2.3 or 2001:db8::1", args[0])
			}
			return t.with(cmd, false, func(ctx context.Context, pop api.POP) error {
				e, err := pop.Explain(ctx, client.Unmap(), app)
				if err != nil {
					return err
				}
				if t.json {
					return c.json(e)
				}
				return c.explanation(e)
			})
		},
	}
	t.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&app, "app", "", "only backends of this app, `name` (default the POP's EDGEPROXY_APP, else every backend)")
	return cmd
}

func (c *cli) explanation(e route.Explanation) error {
	text := sentence(e)
	if e.Panic {
		text += " So many are down that the checks are not believed."
	}
	if _, err := fmt.Fprintln(c.stdout, printable(text)); err != nil || len(e.Candidates) == 0 {
		return err
	}
	columns := []column{{name: "id"}, {name: "region"}, {"tier", true}, {"connections", true}, {"load", true}, {"weight", true}, {"score", true}, {name: "excluded"}}
	var rows [][]cell
	for _, b := range e.Candidates {
		id := cell{text: b.ID}
		if b.ID == e.Chosen {
			id.paint = green
		}
		rows = append(rows, []cell{
			id, {text: b.Region}, {text: strconv.Itoa(b.Tier)}, {text: strconv.FormatInt(b.Connections, 10)},
			{text: strconv.FormatFloat(b.LoadFactor, 'f', 2, 64)}, {text: strconv.FormatInt(b.Weight, 10)},
			{text: strconv.FormatFloat(b.Score, 'f', 2, 64)}, {text: string(b.Excluded), paint: exclusionColours[b.Excluded]},
		})
	}
	return c.table(withWhy(columns, rows, func(i int) string { return e.Candidates[i].Why }))
}

var exclusionColours = map[route.Exclusion]colour{
	route.Unhealthy: red, route.Down: red, route.Ejected: red, route.Expired: red, route.Failing: red, route.Deleted: red,
	route.Draining: yellow, route.Full: yellow,
}

// sentence is the decision in words.
func sentence(e route.Explanation) string {
	from := fmt.Sprintf("%s (%s, region %s)", e.Client, e.Country, e.Region)
	if e.Country == "" {
		from = fmt.Sprintf("%s (country unknown, so region %s as this POP)", e.Client, e.Region)
	} else if e.Region == "" {
		from = fmt.Sprintf("%s (%s, no region)", e.Client, e.Country)
	}
	which := "backend"
	if e.App != "" {
		which = fmt.Sprintf("backend of app %q", e.App)
	}
	switch e.Reason {
	case route.ReasonAffinity:
		return fmt.Sprintf("%s goes to %s: it was there before.", from, e.Chosen)
	case route.ReasonClientRegion:
		return fmt.Sprintf("%s goes to %s: lowest score in the client's region.", from, e.Chosen)
	case route.ReasonPOPRegion:
		return fmt.Sprintf("%s goes to %s: lowest score in the POP's region; none in the client's takes new connections.", from, e.Chosen)
	case route.ReasonOtherRegion:
		return fmt.Sprintf("%s goes to %s: lowest score elsewhere; none in the client's or the POP's region takes new connections.", from, e.Chosen)
	case route.ReasonNone:
		if len(e.Candidates) == 0 {
			return fmt.Sprintf("%s goes nowhere: there is no %s.", from, which)
		}
		return fmt.Sprintf("%s goes nowhere: no %s takes new connections.", from, which)
	}
	return fmt.Sprintf("%s goes to %s: %s.", from, e.Chosen, e.Reason) // of a newer POP
}
