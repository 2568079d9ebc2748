package api

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// TestServices: client and server over real HTTP, with a name that needs escaping.
func TestServices(t *testing.T) {
	ctx := t.Context()
	pop, err := Dial(startAPI(t, Config{}, &tablePOP{services: map[string]Service{}}), "")
	if err != nil {
		t.Fatal(err)
	}
	defer pop.Close()
	if all, err := pop.Services(ctx); err != nil || all == nil || len(all) != 0 {
		t.Errorf("%#v, %v; want an empty list", all, err)
	}
	const app = "web/é?#"
	check := "http path=/health"
	if s, err := pop.SetService(ctx, app, ServicePatch{HealthCheck: &check}); err != nil || s.App != app || s.HealthCheck != check {
		t.Errorf("%+v, %v", s, err)
	}
	if all, err := pop.Services(ctx); err != nil || len(all) != 1 || all[0].App != app {
		t.Errorf("%+v, %v", all, err)
	}
	bad := "icmp"
	if _, err := pop.SetService(ctx, app, ServicePatch{HealthCheck: &bad}); !errors.As(err, new(*mesh.FieldError)) {
		t.Errorf("a bad check: %v", err)
	}
	for _, name := range []string{"", ".", ".."} {
		if err := pop.DeleteService(ctx, name); !errors.As(err, new(*mesh.FieldError)) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := pop.DeleteService(ctx, app); err != nil {
		t.Error(err)
	}
	if err := pop.DeleteService(ctx, app); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "no such service: "+app) {
		t.Errorf("removed twice: %v", err)
	}
}

// TestServicePatch: what takes back is NULL in the row; what is not said is not set.
func TestServicePatch(t *testing.T) {
	none, zero, nothing, five := "", int64(0), int64(-1), int64(5)
	for _, c := range []struct {
		set  ServicePatch
		want map[string]any
	}{
		{ServicePatch{}, map[string]any{}},
		{ServicePatch{HealthCheck: &none, PanicThreshold: &nothing, SoftLimit: &zero, HardLimit: &zero},
			map[string]any{"health_check": nil, "panic_threshold": nil, "soft_limit": nil, "hard_limit": nil}},
		{ServicePatch{PanicThreshold: &zero, HardLimit: &five}, map[string]any{"panic_threshold": int64(0), "hard_limit": int64(5)}},
	} {
		if got := c.set.Columns(); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v, want %v", got, c.want)
		}
	}
}
