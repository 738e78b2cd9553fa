package controlplane

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/power/bmctest"
)

// From an operator's request to a BMC that nobody here wrote: power, boot device,
// graph, poller, alert, and the SKU of a chassis that has said what it is made of.
func TestHardware(t *testing.T) {
	sim := bmctest.StartSim(t)
	ctx := t.Context()
	s := start(t, t.TempDir(), nil)
	connect(t, s, "boot1")
	c := s.chassis("ready")
	if _, err := s.client.Power(ctx, c.ID); !errors.Is(err, client.ErrNotFound) || !strings.Contains(err.Error(), "teeth bmc set") {
		t.Errorf("without BMC: %v", err)
	}
	in := client.NewBMC{Protocol: "ipmi", Address: sim.Target.Address, Username: sim.Target.Username, Password: "wrong-guess"}
	if _, err := s.client.SetBMC(ctx, c.ID, in); err == nil || !strings.Contains(err.Error(), "refuses user or password") {
		t.Errorf("wrong password: %v", err)
	}
	in.Password = sim.Target.Password
	if _, err := s.client.SetBMC(ctx, c.ID, in); err != nil {
		t.Fatal(err)
	}
	if err := s.client.SetPower(ctx, c.ID, "on"); err != nil {
		t.Fatal(err)
	}
	if state, err := s.client.Power(ctx, c.ID); err != nil || state != "on" {
		t.Errorf("%s, %v", state, err)
	}
	if err := s.client.SetBootDevice(ctx, c.ID, client.BootDevice{Device: "pxe"}); err != nil || sim.Chassis(t, "boot") != "pxe" {
		t.Errorf("boots from %s, %v", sim.Chassis(t, "boot"), err)
	}
	g, err := s.client.RunGraph(ctx, client.RunGraph{Graph: "Graph.Power.Off", Chassis: c.ID})
	if err != nil {
		t.Fatal(err)
	}
	if r := s.ended(g.ID); r.State != "succeeded" || sim.Chassis(t, "power") != "0" {
		t.Errorf("graph %s: %+v; power %s", r.State, r.Tasks, sim.Chassis(t, "power"))
	}
	if sensors, err := s.client.Sensors(ctx, c.ID); err != nil || len(sensors) != 2 {
		t.Errorf("%+v, %v", sensors, err)
	}
	p, err := s.client.AddPoller(ctx, client.PollerSpec{Chassis: c.ID, Kind: "power", Rules: json.RawMessage(`[{"name":"down","state":"off","severity":"critical"}]`)})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "an alert", func() bool {
		list, err := s.client.ListAlerts(ctx, c.ID, false, 0)
		return err == nil && len(list) == 1 && list[0].Rule == "down" && list[0].Poller == p.ID
	})
	if _, err := s.client.PutSKU(ctx, json.RawMessage(`{"name":"any","rules":[{"path":"disks.*.serial","contains":"NVME1"}],"graph":"Graph.Power.On"}`)); err != nil {
		t.Fatal(err)
	}
	var a client.SKUAssignment
	eventually(t, "the SKU and its graph", func() bool {
		a, err = s.client.SKUOf(ctx, c.ID)
		return err == nil && a.Name == "any" && a.Step == "started"
	})
	if r := s.ended(a.Graph); r.State != "succeeded" || sim.Chassis(t, "power") != "1" {
		t.Errorf("graph of the SKU %s, power %s", r.State, sim.Chassis(t, "power"))
	}
	if orders := sim.Told(t); !slices.Equal(orders, []string{"set power 1", "set boot pxe", "set power 0", "set power 1"}) {
		t.Errorf("the chassis was told %q", orders)
	}
}
