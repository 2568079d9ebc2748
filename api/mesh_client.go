package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// Load implements Mesh.
func (c *Client) Load(ctx context.Context) (Load, error) {
	l, err := call[Load](ctx, c, http.MethodGet, "/api/v1/load", nil, nil)
	l.POPs, l.Backends = orEmpty(l.POPs), orEmpty(l.Backends)
	return l, err
}

// Members implements Mesh.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	all, err := call[[]Member](ctx, c, http.MethodGet, "/api/v1/members", nil, nil)
	return orEmpty(all), err
}

// Forget implements Mesh.
func (c *Client) Forget(ctx context.Context, node string) error {
	return c.do(ctx, http.MethodDelete, "members", node, "", nil)
}

// Leave implements Mesh.
func (c *Client) Leave(ctx context.Context) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "/api/v1/leave", nil, nil)
	return err
}

// Upgrade implements Mesh. It takes as long as the new process does to begin.
func (c *Client) Upgrade(ctx context.Context) (Upgrade, error) {
	unhurried := *c
	unhurried.http.Timeout = upgradeTimeout
	c = &unhurried
	return call[Upgrade](ctx, c, http.MethodPost, "/api/v1/upgrade", nil, nil)
}

// Keys implements Mesh.
func (c *Client) Keys(ctx context.Context) ([]ClusterKey, error) {
	all, err := call[[]ClusterKey](ctx, c, http.MethodGet, "/api/v1/keys", nil, nil)
	return orEmpty(all), err
}

// AddKey implements Mesh.
func (c *Client) AddKey(ctx context.Context, key string) (ClusterKey, error) {
	return call[ClusterKey](ctx, c, http.MethodPost, "/api/v1/keys", nil, newKey{key})
}

// UseKey implements Mesh.
func (c *Client) UseKey(ctx context.Context, id string, force bool) error {
	return c.do(ctx, http.MethodPost, "keys", id, "/use", forced(force))
}

// RemoveKey implements Mesh.
func (c *Client) RemoveKey(ctx context.Context, id string, force bool) error {
	return c.do(ctx, http.MethodDelete, "keys", id, "", forced(force))
}

func forced(force bool) url.Values {
	if force {
		return url.Values{"force": {"true"}}
	}
	return nil
}

// Quarantine implements Mesh.
func (c *Client) Quarantine(ctx context.Context) ([]Quarantined, error) {
	all, err := call[[]Quarantined](ctx, c, http.MethodGet, "/api/v1/quarantine", nil, nil)
	return orEmpty(all), err
}

// Release implements Mesh.
func (c *Client) Release(ctx context.Context, row string) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "/api/v1/quarantine/release", nil, oneRow{row})
	return err
}

// Drop implements Mesh.
func (c *Client) Drop(ctx context.Context, row string) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "/api/v1/quarantine/drop", nil, oneRow{row})
	return err
}

// Backup implements Mesh. It takes as long as the copy does.
func (c *Client) Backup(ctx context.Context, to io.Writer) error {
	req, err := c.request(ctx, http.MethodGet, "/api/v1/backup", nil, nil)
	if err != nil {
		return err
	}
	unhurried := c.http
	unhurried.Timeout = 0
	resp, err := unhurried.Do(req)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		if err != nil {
			return c.unreachable(ctx, err)
		}
		return c.refused(resp.StatusCode, body)
	}
	if _, err := io.Copy(to, resp.Body); err != nil {
		return fmt.Errorf("copy the database of %s: %w", c.Addr(), err)
	}
	return nil
}

// do sends a request about one thing, whose name becomes a part of the path.
func (c *Client) do(ctx context.Context, method, kind, name, verb string, query url.Values) error {
	if name == "" || name == "." || name == ".." {
		return &mesh.FieldError{Field: kind, Message: fmt.Sprintf("%q is no name", name)}
	}
	_, err := call[struct{}](ctx, c, method, "/api/v1/"+kind+"/"+url.PathEscape(name)+verb, query, nil)
	return err
}
