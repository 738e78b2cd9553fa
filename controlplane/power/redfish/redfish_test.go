package redfish

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/power/bmctest"
)

func open(t *testing.T, target power.Target) power.Controller {
	t.Helper()
	c, err := Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestPower(t *testing.T) {
	bmc := bmctest.StartService(t)
	c := open(t, bmc.Target)
	for _, step := range []struct {
		do    power.Action
		state power.State
	}{
		{power.TurnOff, power.Off}, // is already
		{power.Cycle, power.On},
		{power.TurnOn, power.On},
		{power.Cycle, power.On}, // the service has no PowerCycle
		{power.Reset, power.On},
		{power.Shutdown, power.Off},
	} {
		if err := c.Set(t.Context(), step.do); err != nil {
			t.Fatalf("%s: %v", step.do, err)
		}
		if state, err := c.State(t.Context()); err != nil || state != step.state {
			t.Fatalf("after %s: %s, %v", step.do, state, err)
		}
	}
	if got, want := bmc.Resets(), []string{"On", "ForceRestart", "ForceRestart", "GracefulShutdown"}; !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
}

func TestBootDevice(t *testing.T) {
	bmc := bmctest.StartService(t)
	c := open(t, bmc.Target)
	if err := c.SetBoot(t.Context(), power.Boot{Device: power.PXE, UEFI: true}); err != nil {
		t.Fatal(err)
	}
	for property, want := range map[string]string{
		"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once", "BootSourceOverrideMode": "UEFI",
	} {
		if got := bmc.Boot(property); got != want {
			t.Errorf("%s is %v, want %s", property, got, want)
		}
	}
	if err := c.SetBoot(t.Context(), power.Boot{Device: power.Disk, Persistent: true}); err != nil {
		t.Fatal(err)
	}
	if got := bmc.Boot("BootSourceOverrideEnabled"); got != "Continuous" {
		t.Errorf("enabled %v", got)
	}
	if err := c.SetBoot(t.Context(), power.Boot{Device: power.HTTP}); err != nil {
		t.Fatal(err)
	}
	if target, mode := bmc.Boot("BootSourceOverrideTarget"), bmc.Boot("BootSourceOverrideMode"); target != "UefiHttp" || mode != "UEFI" {
		t.Errorf("http: %v, mode %v", target, mode)
	}
	// An older one, which has no such target.
	bmc.Change = func(path string, r map[string]any) map[string]any {
		if strings.HasSuffix(path, "/node1") {
			r["Boot"] = map[string]any{"BootSourceOverrideTarget@Redfish.AllowableValues": []string{"None", "Pxe"}}
		}
		return r
	}
	if err := c.SetBoot(t.Context(), power.Boot{Device: power.HTTP}); !errors.Is(err, power.ErrUnsupported) || !strings.Contains(err.Error(), `["None" "Pxe"]`) {
		t.Errorf("http where there is none: %v", err)
	}
	// A service that says yes and does nothing.
	bmc.Change = func(path string, r map[string]any) map[string]any {
		if strings.HasSuffix(path, "/node1") {
			r["Boot"] = map[string]any{"BootSourceOverrideTarget": "None"}
		}
		return r
	}
	if err := c.SetBoot(t.Context(), power.Boot{Device: power.PXE}); !errors.Is(err, power.ErrUnsupported) {
		t.Errorf("boot device that was not set: %v", err)
	}
}

func TestReadings(t *testing.T) {
	bmc := bmctest.StartService(t)
	c := open(t, bmc.Target)
	bmc.Log("OK", "first")
	bmc.Log("Critical", "second\x1b[31m")
	log, err := c.Events(t.Context(), "", 0)
	if err != nil || len(log.Events) != 2 || log.Events[1].Severity != power.Critical || log.Events[1].Message != "second[31m" ||
		log.Events[0].Time == nil || log.Events[0].Sensor != "0x01" {
		t.Errorf("%+v, %v", log, err)
	}
	if log, err = c.Events(t.Context(), "1", 0); err != nil || len(log.Events) != 1 || log.Events[0].ID != "2" {
		t.Errorf("after the first: %+v, %v", log, err)
	}
	sensors, err := c.Sensors(t.Context())
	if err != nil || len(sensors) != 2 || *sensors[0].Value != 41.5 || sensors[0].Unit != "degrees C" ||
		sensors[0].Status != power.StatusOK || sensors[1].Status != power.StatusAbsent {
		t.Errorf("%+v, %v", sensors, err)
	}
	info, err := c.Info(t.Context())
	if err != nil || info.Firmware != "2.17.1" || info.Console == nil || info.Console.Protocol != "ssh" ||
		!strings.HasSuffix(info.Console.Address, ":2200") {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestSessionsEnd(t *testing.T) {
	bmc := bmctest.StartService(t)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		c, err := Open(ctx, bmc.Target)
		if err != nil {
			t.Fatal(err)
		}
		cancel() // the session ends even when the work was given up
		if _, err := c.State(ctx); err == nil {
			t.Error("worked with a context that has ended")
		}
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	}
	if open, ever := bmc.Sessions(); open != 0 || ever != 3 {
		t.Errorf("%d open of %d", open, ever)
	}
}

func TestRefusals(t *testing.T) {
	bmc := bmctest.StartService(t)
	for name, c := range map[string]struct {
		change func(*power.Target)
		want   error
	}{
		"wrong password":    {func(t *power.Target) { t.Password = "guess-1" }, power.ErrDenied},
		"other certificate": {func(t *power.Target) { t.CertSHA256 = strings.Repeat("ab", 32) }, power.ErrDenied},
		"unknown authority": {func(t *power.Target) { t.CertSHA256 = "" }, power.ErrDenied},
		"bad fingerprint":   {func(t *power.Target) { t.CertSHA256 = "abc" }, power.ErrInvalid},
		"bad address":       {func(t *power.Target) { t.Address = "host/path" }, power.ErrInvalid},
		"closed port":       {func(t *power.Target) { t.Address = "127.0.0.1:1" }, power.ErrUnreachable},
	} {
		target := bmc.Target
		c.change(&target)
		_, err := Open(t.Context(), target)
		if !errors.Is(err, c.want) || strings.Contains(err.Error(), target.Password) {
			t.Errorf("%s: %v", name, err)
		}
	}
	target := bmc.Target
	target.CertSHA256, target.Insecure = "", true
	open(t, target)
	target.System = "node7"
	if _, err := open(t, target).State(t.Context()); !errors.Is(err, power.ErrInvalid) || !strings.Contains(err.Error(), "node1") {
		t.Errorf("unknown system: %v", err)
	}
}

// A BMC that has been taken over.
func TestHostileAnswers(t *testing.T) {
	var stolen atomic.Int32
	thief := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stolen.Add(1) }))
	defer thief.Close()
	host := strings.TrimPrefix(thief.URL, "https://")
	for name, change := range map[string]func(path string, r map[string]any) map[string]any{
		"token to another host": func(_ string, r map[string]any) map[string]any {
			if r["Members"] != nil {
				r["Members"] = []any{map[string]any{"@odata.id": "@" + host + "/redfish"}}
			}
			return r
		},
		"endless pages": func(path string, r map[string]any) map[string]any {
			if r["Members"] != nil {
				r["Members@odata.nextLink"] = path + "?more"
			}
			return r
		},
		"huge answer": func(path string, r map[string]any) map[string]any {
			if r["Members"] != nil {
				r["Name"] = strings.Repeat("x", maxBody)
			}
			return r
		},
		"wrong types": func(path string, r map[string]any) map[string]any {
			if strings.Contains(path, "/Systems/") {
				r["Boot"], r["Links"] = "none", 7
			}
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			bmc := bmctest.StartService(t)
			bmc.Target.CertSHA256, bmc.Target.Insecure = "", true
			c := open(t, bmc.Target)
			bmc.Change = change
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if state, err := c.State(ctx); err == nil || ctx.Err() != nil || len(err.Error()) > 600 {
				t.Errorf("%s, %v", state, err)
			} else {
				t.Log(err)
			}
		})
	}
	if n := stolen.Load(); n != 0 {
		t.Errorf("%d requests went to another host", n)
	}
}
