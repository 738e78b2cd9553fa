package controlplane

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/power/bmctest"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// putIntoService has a connected chassis installed, and its system call back.
func putIntoService(t *testing.T, s *running, a *agent) {
	t.Helper()
	system := strings.Repeat("operating system ", 1000)
	if _, err := s.client.UploadImage(t.Context(), client.NewImage{Name: "os", Format: "raw"}, strings.NewReader(system), int64(len(system))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Provision(t.Context(), testMAC, client.Provision{Image: "os"}); err != nil {
		t.Fatal(err)
	}
	var cache teeth.CacheImagesParams
	a.accept(teeth.MethodCacheImages, &cache)
	a.report(teeth.TaskStatus{TaskID: cache.TaskID, State: teeth.Complete})
	var prepare teeth.PrepareImageParams
	a.accept(teeth.MethodPrepareImage, &prepare)
	a.report(teeth.TaskStatus{TaskID: prepare.TaskID, State: teeth.Complete})
	var boot teeth.RunImageParams
	a.accept(teeth.MethodRunImage, &boot)
	a.report(teeth.TaskStatus{TaskID: boot.TaskID, State: teeth.Complete})
	a.conn.Close()
	var vendor map[string]string
	if err := json.Unmarshal(boot.ConfigDrive.VendorData, &vendor); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(vendor["cloud-init"], `url: "`)
	address, _, _ := strings.Cut(rest, `"`)
	resp, err := http.PostForm(address, url.Values{"hostname": {"web1"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	s.chassis("in_service")
}

// bootScript is what the chassis gets when its firmware asks over the network.
func bootScript(t *testing.T, s *running) string {
	t.Helper()
	resp, err := http.Get("http://" + s.info.Boot + "/boot/ipxe?" + url.Values{"mac": {testMAC}, "uuid": {testUUID}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %v", resp.Status, err)
	}
	return string(b)
}

// A chassis that is in service is emptied by one command: its BMC, which nobody
// here wrote, makes it boot the ramdisk, and the disks that it has then are erased.
func TestDecommissionInService(t *testing.T) {
	sim := bmctest.StartSim(t)
	ctx := t.Context()
	s := start(t, t.TempDir(), nil)
	a := connect(t, s, "boot1")
	c := s.chassis("ready")
	putIntoService(t, s, a)

	run := client.RunGraph{Graph: "Graph.DecommissionInService", Chassis: c.ID}
	run.Options = map[string]map[string]any{"decommission": {"options": map[string]any{"erase": map[string]any{"verify": "sample"}}}}
	g, err := s.client.RunGraph(ctx, run)
	if err != nil {
		t.Fatal(err)
	}
	if r := s.ended(g.ID); r.State != "failed" || !strings.Contains(r.Tasks[0].Msg, "teeth bmc set") {
		t.Fatalf("without BMC: %s %+v", r.State, r.Tasks)
	}
	if c, err := s.client.Chassis(ctx, c.ID); err != nil || c.InServiceAt == nil {
		t.Errorf("nothing has happened to it, and it is no longer in service: %+v %v", c, err)
	}
	if _, err := s.client.SetBMC(ctx, c.ID, client.NewBMC{Protocol: "ipmi", Address: sim.Target.Address, Username: sim.Target.Username, Password: sim.Target.Password}); err != nil {
		t.Fatal(err)
	}
	sim.SetPower(t, true)
	if script := bootScript(t, s); !strings.Contains(script, "sanboot") {
		t.Errorf("in service it boots %s", script)
	}
	bad := client.RunGraph{Graph: run.Graph, Chassis: c.ID, Options: map[string]map[string]any{"boot": {"device": "floppy"}}}
	if _, err := s.client.RunGraph(ctx, bad); !errors.Is(err, client.ErrInvalid) || !strings.Contains(err.Error(), "write pxe or http") {
		t.Errorf("an option that makes no sense: %v", err)
	}
	if g, err = s.client.RunGraph(ctx, run); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the chassis is turned off and on", func() bool {
		told := sim.Told(t)
		return len(told) >= 2 && told[0] == "set boot pxe" && !slices.Equal(told, []string{"set boot pxe", "set power 0"}) && sim.Chassis(t, "power") == "1"
	})
	if script := bootScript(t, s); !strings.Contains(script, "vmlinuz") {
		t.Errorf("after that it boots %s", script)
	}
	// Since it was installed somebody has replaced a disk.
	a = connectWith(t, s, "boot2", bytes.ReplaceAll(inventory, []byte("VDA1"), []byte("VDA2")))
	var erase teeth.DiskEraseParams
	a.accept(teeth.MethodDiskErase, &erase)
	if erase.Verify != "sample" || !slices.ContainsFunc(erase.Disks, func(d teeth.Disk) bool { return d.Serial == "VDA2" }) {
		t.Errorf("%+v", erase)
	}
	a.report(teeth.TaskStatus{TaskID: erase.TaskID, State: teeth.Complete})
	for _, method := range []string{teeth.MethodFirmwareSecure, teeth.MethodQC} {
		var p struct {
			TaskID string `json:"task_id"`
		}
		a.accept(method, &p)
		a.report(teeth.TaskStatus{TaskID: p.TaskID, State: teeth.Complete})
	}
	if r := s.ended(g.ID); r.State != "succeeded" || !strings.Contains(string(r.Tasks[0].Result), `"boot2"`) {
		t.Errorf("%s %s: %+v", r.State, r.Msg, r.Tasks)
	}
	if c := s.chassis("ready"); c.InServiceAt != nil || c.InstalledAt != nil {
		t.Errorf("%+v", c)
	}
	// What is connected already is not turned off again.
	if g, err = s.client.RunGraph(ctx, client.RunGraph{Graph: "Graph.DecommissionInService", Chassis: c.ID}); err != nil {
		t.Fatal(err)
	}
	told := sim.Told(t)
	a.accept(teeth.MethodDiskErase, &erase)
	if now := sim.Told(t); !slices.Equal(now, told) {
		t.Errorf("the BMC was told %q", now[len(told):])
	}
}
