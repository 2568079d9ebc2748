package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/spf13/cobra"
)

func newWG(c *cli) *cobra.Command {
	t := &target{cli: c}
	cmd := group(&cobra.Command{
		Use:        "wg",
		GroupID:    groupMesh,
		SuggestFor: []string{"wireguard", "overlay"},
		Short:      "Look after the WireGuard overlay",
		Long: `The overlay joins POPs and backends by WireGuard. Each POP that is started with
--wg makes its key itself, tells the others its public key, and has a tunnel
with each of them (or with the hubs, see --wg-topology) and with every plain
device that "edgeproxy wg peer add" has admitted.` + runningHelp,
		Example: `  edgeproxy wg status
  edgeproxy wg peer add --name laptop --region eu > laptop.conf`,
	})
	t.addRunningFlags(cmd.PersistentFlags())
	cmd.AddCommand(t.wgStatus(), t.wgExport(), t.wgRotate(), t.wgPeer())
	return cmd
}

func (t *target) wgStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show a POP's tunnels",
		Long: `Shows the tunnels of one POP as "wg show" does, with names.

  handshake  how long ago the last one was; up to three minutes on a tunnel in use
  loss, rtt  of echo requests (ICMP) through the tunnel, the last 32 of them`,
		Example:           `  edgeproxy wg status --json`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
				v, err := pop.WG(ctx)
				if err != nil {
					return err
				}
				if t.json {
					return t.cli.json(v)
				}
				return t.cli.wgStatus(v, time.Now())
			})
		},
	}
}

// wgStatus prints the overlay for people.
func (c *cli) wgStatus(v api.WG, now time.Time) error {
	if v.Mode == "off" {
		return c.print("the overlay is off on this POP: start it with --wg\n")
	}
	role := "spoke"
	if v.Hub {
		role = "hub"
	}
	err := c.pairs([][2]string{
		{"mode", v.Mode}, {"interface", v.Interface}, {"port", strconv.Itoa(int(v.Port))}, {"public key", v.PublicKey},
		{"addresses", strings.Join(v.Addresses, " ")}, {"topology", v.Topology + ", " + role},
	})
	if v.Error != "" {
		err = errors.Join(err, c.print(painted("does not work: "+printable(v.Error), red, c.coloured(c.stdout))+"\n"))
	}
	for _, p := range v.Problems {
		err = errors.Join(err, c.print(painted("problem: "+printable(p), yellow, c.coloured(c.stdout))+"\n"))
	}
	if err != nil || len(v.Peers) == 0 {
		return err
	}
	columns := []column{{name: "name"}, {name: "kind"}, {name: "region"}, {name: "endpoint"}, {"handshake", true}, {"received", true}, {"sent", true}, {"loss", true}, {"rtt", true}, {name: "public key"}, {name: "allowed ips"}}
	rows := make([][]cell, len(v.Peers))
	for i, p := range v.Peers {
		handshake, loss := cell{text: "never", paint: red}, cell{}
		if !p.Handshake.IsZero() {
			age := max(0, now.Sub(p.Handshake))
			handshake = cell{text: age.Round(time.Second).String(), paint: green}
			if age > 3*time.Minute { // WireGuard's own limit for a session, REJECT_AFTER_TIME
				handshake.paint = yellow
			}
		}
		if p.Loss != nil {
			loss.text = fmt.Sprintf("%.0f%%", 100**p.Loss)
			if *p.Loss > 0 {
				loss.paint = yellow
			}
		}
		rows[i] = []cell{{text: p.Name}, {text: p.Kind}, {text: p.Region}, {text: p.Endpoint}, handshake, {text: bytesText(p.Received)}, {text: bytesText(p.Sent)},
			loss, {text: milliseconds(p.RTT)}, {text: p.PublicKey}, {text: strings.Join(p.AllowedIPs, ",")}}
	}
	return errors.Join(c.print("\n"), c.table(columns, rows))
}

// bytesText is a number of bytes as wg(8) has it.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.2f %s", f, units[i])
}

func (t *target) wgExport() *cobra.Command {
	return &cobra.Command{
		Use:   "export NODE",
		Short: "Print a file for wg-quick",
		Long: `Prints the wg-quick(8) file of a plain device or of a POP, without the private
key, which nobody else has. It is made for the POPs that there are now: where one
is added, or has changed its key, plain devices need it again. On such a device:

  edgeproxy wg export laptop --api pop:8180 | wg-quick strip /dev/stdin |
    wg syncconf wg0 /dev/stdin`,
		Example:           `  edgeproxy wg export laptop`,
		Args:              takes("a NODE"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
				f, err := pop.ExportWG(ctx, args[0])
				if err != nil {
					return err
				}
				if t.json {
					return t.cli.json(f)
				}
				return t.cli.print(f.File)
			})
		},
	}
}

func (t *target) wgRotate() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate",
		Short: "Give a POP a new key",
		Long: `Makes a new WireGuard key on the POP, tells the others, who take packets of both
from then on, and changes to it. Connections go on. Plain devices cannot be told:
those that are named need a new file ("edgeproxy wg export"), and are not heard
until then.`,
		Example:           `  edgeproxy wg rotate`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
				r, err := pop.RotateWG(ctx)
				if err != nil {
					return err
				}
				if t.json {
					return t.cli.json(r)
				}
				text := "old  " + r.Old + "\nnew  " + r.New + "\n"
				if len(r.Peers) > 0 {
					text += "these plain devices need a new file (\"edgeproxy wg export\"): " + printable(strings.Join(r.Peers, ", ")) + "\n"
				}
				return t.cli.print(text)
			})
		},
	}
}
