package mockbackend

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// Row is a backend as the admin API of edgeproxy takes one.
type Row struct {
	ID     string         `json:"id"`
	App    string         `json:"app"`
	Region string         `json:"region"`
	Addr   netip.AddrPort `json:"addr"`
	Weight int            `json:"weight"`
	Soft   int            `json:"soft_limit"`
	Hard   int            `json:"hard_limit"`
}

const registerTimeout = 10 * time.Second

// Register adds a row by the admin API at base, as in http://pop-sa:8180. One that is there stays as it is: an operator
// may have changed it.
func Register(ctx context.Context, base, token string, row Row) error {
	body, err := json.Marshal(row)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(base, "/")+"/api/v1/backends", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	req.Close = true // asked once: no idle connection stays behind
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusCreated, http.StatusConflict:
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // for a person, as far as it came
	return fmt.Errorf("register with %s: %s: %s", base, resp.Status, bytes.TrimSpace(text))
}
