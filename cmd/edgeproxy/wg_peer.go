package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/spf13/cobra"
)

func (t *target) wgPeer() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "peer",
		Short: "Admit plain WireGuard devices",
		Long: `Plain WireGuard devices are backends, laptops and routers that do not run
edgeproxy. Each has an address of its own in the overlay.`,
		Example: `  edgeproxy wg peer add --name laptop --region eu > laptop.conf
  edgeproxy wg peer list
  edgeproxy wg peer remove laptop`,
	})
	cmd.AddCommand(t.wgPeerAdd(), t.wgPeerList(), t.wgPeerRemove())
	return cmd
}

func (t *target) wgPeerAdd() *cobra.Command {
	var p api.WGPeer
	cmd := &cobra.Command{
		Use:   "add",
		Short: "Admit a device and print its wg-quick file",
		Long: `Admits a device to the overlay, on every POP, and prints its wg-quick(8) file.
Without --public-key the key is made here, and stands in the file only; with it
the file lacks the line PrivateKey.

The device has a tunnel with every POP, or with those of --via; with these the
others send what is for it through the first of them that is alive.`,
		Example: `  edgeproxy wg peer add --name laptop --region eu > laptop.conf
  edgeproxy wg peer add --name us-node-1 --region us --address 10.50.2.1 --endpoint 198.51.100.7:51820 --public-key xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
  edgeproxy wg peer add --name office --region sa --via pop-sa --routes 192.168.7.0/24`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error { return t.addPeer(ctx, pop, p) })
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&p.Name, "name", "", "`name` of the device (required)")
	fs.StringVar(&p.Region, "region", "", "`code` of its region (default the POP's)")
	fs.StringVar(&p.PublicKey, "public-key", "", "`key` of the device, as \"wg pubkey\" prints it (default one is made)")
	fs.StringVar(&p.Address, "address", "", "IPv4 `address` in the overlay (default chosen)")
	fs.StringVar(&p.Address6, "address6", "", "IPv6 `address` in the overlay (default chosen)")
	fs.StringVar(&p.Endpoint, "endpoint", "", "`ip:port` at which POPs reach it (default none: it dials them)")
	fs.StringSliceVar(&p.Via, "via", nil, "`POPs` that have a tunnel with it (default all)")
	fs.StringSliceVar(&p.Routes, "routes", nil, "`networks` behind it")
	return cmd
}

func (t *target) addPeer(ctx context.Context, pop *api.Client, p api.WGPeer) error {
	if p.Name == "" {
		return usagef("wg peer add needs --name; for example: edgeproxy wg peer add --name laptop")
	}
	private := ""
	if p.PublicKey == "" {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		private = base64.StdEncoding.EncodeToString(clamped(key.Bytes()))
		p.PublicKey = base64.StdEncoding.EncodeToString(key.PublicKey().Bytes())
	}
	if p.Region == "" {
		st, err := pop.Status(ctx)
		if err != nil {
			return err
		}
		p.Region = st.Region
	}
	added, err := pop.AddWGPeer(ctx, p)
	if err != nil {
		return err
	}
	f, err := pop.ExportWG(ctx, added.Name)
	if err != nil {
		return fmt.Errorf("%s is admitted, but its file is not to be had; remove it and add it again: %w", printable(added.Name), err)
	}
	if private != "" {
		f.File = strings.Replace(f.File, "# PrivateKey = the one of "+p.PublicKey, "PrivateKey = "+private, 1)
	}
	if t.json {
		return t.cli.json(struct {
			api.WGPeer
			File string `json:"file"`
		}{added, f.File})
	}
	return t.cli.print(f.File)
}

// clamped is a private key as "wg genkey" prints it (RFC 7748, section 5): the same key.
func clamped(key []byte) []byte {
	key[0] &= 248
	key[31] = key[31]&127 | 64
	return key
}

func (t *target) wgPeerList() *cobra.Command {
	return &cobra.Command{
		Use:               "list",
		Short:             "List the plain devices of the overlay",
		Long:              `Lists the plain WireGuard devices that are admitted to the overlay.`,
		Example:           `  edgeproxy wg peer list --json`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
				all, err := pop.WGPeers(ctx)
				if err != nil {
					return err
				}
				if t.json {
					return t.cli.json(all)
				}
				columns := []column{{name: "name"}, {name: "region"}, {name: "address"}, {name: "address6"}, {name: "endpoint"}, {name: "via"}, {name: "routes"}, {name: "public key"}}
				rows := make([][]cell, len(all))
				for i, p := range all {
					rows[i] = []cell{{text: p.Name}, {text: p.Region}, {text: p.Address}, {text: p.Address6}, {text: p.Endpoint}, {text: strings.Join(p.Via, ",")}, {text: strings.Join(p.Routes, ",")}, {text: p.PublicKey}}
				}
				return t.cli.table(columns, rows)
			})
		},
	}
}

func (t *target) wgPeerRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Revoke a device",
		Long: `Takes a device out of the overlay: every POP forgets its key as soon as it hears
of it, and answers it no more.`,
		Example:           `  edgeproxy wg peer remove laptop`,
		Args:              takes("a NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
				err := pop.RemoveWGPeer(ctx, args[0])
				if errors.Is(err, api.ErrNotFound) {
					return fmt.Errorf("%w; \"edgeproxy wg peer list\" shows what there is", err)
				}
				if err != nil {
					return err
				}
				return t.done(args[0], "revoked")
			})
		},
	}
}
