package controlplane

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

func testConfig(dir string) Config {
	return Config{
		DataDir: dir, BootDir: dir, Version: "test", Log: slog.New(slog.DiscardHandler),
		Agents: "127.0.0.1:0", API: "127.0.0.1:0", Boot: "127.0.0.1:0", fetchLoopback: true,
		Enrolment: EnrolmentConfig{AutoApprove: []store.Rule{{Kind: store.RuleAll}}},
	}
}

func percent(f float64) *float64 { return &f }

func TestDecommission(t *testing.T) {
	ctx := t.Context()
	s := start(t, t.TempDir(), nil)
	a := connect(t, s, "boot1")
	c := s.chassis("ready")
	if c.Serial != "SN1" || c.UUID != testUUID || !c.Connected || len(c.Phases) != 1 || !strings.Contains(string(c.Inventory), "NVME1") {
		t.Fatalf("%+v", c)
	}
	run, err := s.client.Decommission(ctx, "sn1", client.Decommission{Verify: "full", Spec: json.RawMessage(`{"cpu":{"min_cores":1}}`)})
	if err != nil {
		t.Fatal(err)
	}
	watched := make(chan error, 1)
	seen := map[string]bool{}
	go func() {
		watched <- s.client.Watch(ctx, client.Filter{Graph: run.ID}, func(e client.Event) error {
			if e.Graph != nil && e.Graph.ID == run.ID {
				return nil
			}
			if e.Task == nil {
				return errors.New("watching a graph showed something else than it and its tasks")
			}
			seen[e.Task.Method+" "+e.Task.State] = true
			if e.Task.Position == 2 && e.Task.Final() {
				return io.EOF
			}
			return nil
		})
	}()
	var erase teeth.DiskEraseParams
	a.accept(teeth.MethodDiskErase, &erase)
	want := []teeth.Disk{{Serial: "NVME1", WWN: "eui.1", Size: 8589934592}, {Serial: "VDA1", Size: 5368709120}}
	if len(erase.Disks) != 2 || erase.Disks[0] != want[0] || erase.Disks[1] != want[1] || erase.TaskID != run.Tasks[0].ID || erase.Verify != "full" {
		t.Errorf("erase: %+v", erase)
	}
	eta := 30.0
	a.report(teeth.TaskStatus{TaskID: erase.TaskID, State: teeth.Running, Percent: percent(50), ETA: &eta, Step: "erasing", Seq: 1})
	if task, err := s.client.Task(ctx, erase.TaskID); err != nil || task.State != "running" || task.Percent != 50 || task.ETA == nil || *task.ETA != 30 {
		t.Errorf("%+v, %v", task, err)
	}
	a.quiet() // the next task waits
	if _, err := s.client.Decommission(ctx, c.ID, client.Decommission{}); err == nil || !strings.Contains(err.Error(), run.ID) {
		t.Errorf("a second run beside the first: %v", err)
	}
	a.report(teeth.TaskStatus{TaskID: erase.TaskID, State: teeth.Complete, Result: json.RawMessage(`{"disks":2}`), Seq: 2})
	var firmware teeth.FirmwareSecureParams
	a.accept(teeth.MethodFirmwareSecure, &firmware)
	a.report(teeth.TaskStatus{TaskID: firmware.TaskID, State: teeth.Complete})
	var qc teeth.QCParams
	a.accept(teeth.MethodQC, &qc)
	if !strings.Contains(string(qc.Spec), "min_cores") {
		t.Errorf("spec: %s", qc.Spec)
	}
	a.report(teeth.TaskStatus{TaskID: qc.TaskID, State: teeth.Complete})
	if r := s.ended(run.ID); r.State != "succeeded" || string(r.Tasks[0].Result) != `{"disks":2}` {
		t.Errorf("%+v", r)
	}
	if err := <-watched; err != io.EOF {
		t.Errorf("watch: %v", err)
	}
	if !seen["decom.qc succeeded"] {
		t.Errorf("watch saw %v", seen)
	}
	s.chassis("ready")
}

func TestProvision(t *testing.T) {
	ctx := t.Context()
	s := start(t, t.TempDir(), nil)
	a := connect(t, s, "boot1")
	s.chassis("ready")
	content := bytes.Repeat([]byte("operating system "), 10000)
	img, err := s.client.UploadImage(ctx, client.NewImage{Name: "debian-12", Format: "raw"}, bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(content)
	if img.SHA256 != hex.EncodeToString(digest[:]) || img.Size != int64(len(content)) {
		t.Errorf("%+v", img)
	}
	key := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ operator@host"
	run, err := s.client.Provision(ctx, testMAC, client.Provision{
		Image: "debian-12", Hostname: "web1", SSHKeys: []string{key}, UserData: "#cloud-config\nruncmd: [true]\n",
		Files: map[string][]byte{"/etc/motd": []byte("hello\n")}, Boot: "kexec",
	})
	if err != nil {
		t.Fatal(err)
	}
	var cache teeth.CacheImagesParams
	a.accept(teeth.MethodCacheImages, &cache)
	if len(cache.ImageIDs) != 1 || cache.ImageIDs[0] != img.ID || cache.Images[0].Hashes["sha256"] != img.SHA256 {
		t.Errorf("cache: %+v", cache)
	}
	// Of the two disks the smaller one that is large enough, by its identity.
	if cache.RootDevice == nil || cache.RootDevice.Serial != "VDA1" {
		t.Errorf("root device: %+v", cache.RootDevice)
	}
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, cache.Images[0].URLs[0], nil)
	req.Header.Set("Range", "bytes=17-33")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	part, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent || string(part) != "operating system " {
		t.Errorf("%s: %s %q", cache.Images[0].URLs[0], resp.Status, part)
	}
	a.report(teeth.TaskStatus{TaskID: cache.TaskID, State: teeth.Complete})
	var prepare teeth.PrepareImageParams
	a.accept(teeth.MethodPrepareImage, &prepare)
	if prepare.Image == nil || prepare.Image.Size != img.Size || *prepare.RootDevice != *cache.RootDevice {
		t.Errorf("prepare: %+v", prepare)
	}
	a.report(teeth.TaskStatus{TaskID: prepare.TaskID, State: teeth.Complete})
	var boot teeth.RunImageParams
	a.accept(teeth.MethodRunImage, &boot)
	var meta struct {
		UUID, Hostname, Name string
		PublicKeys           map[string]string `json:"public_keys"`
	}
	var vendor map[string]string
	if err := errors.Join(json.Unmarshal(boot.ConfigDrive.MetaData, &meta), json.Unmarshal(boot.ConfigDrive.VendorData, &vendor)); err != nil {
		t.Fatal(err)
	}
	if meta.Hostname != "web1" || meta.Name != "web1" || len(meta.UUID) != 36 || meta.PublicKeys["key-0"] != key || boot.Boot != "kexec" ||
		boot.ConfigDrive.UserData != "#cloud-config\nruncmd: [true]\n" || string(boot.ConfigDrive.Files["/etc/motd"]) != "hello\n" ||
		!strings.Contains(string(boot.ConfigDrive.NetworkData), testMAC) {
		t.Errorf("run: %+v, meta %+v", boot, meta)
	}
	_, rest, ok := strings.Cut(vendor["cloud-init"], `url: "`)
	address, _, _ := strings.Cut(rest, `"`)
	if !ok || !strings.HasPrefix(vendor["cloud-init"], "#cloud-config\n") {
		t.Fatalf("vendor data: %q", vendor)
	}
	a.report(teeth.TaskStatus{TaskID: boot.TaskID, State: teeth.Complete})
	a.conn.Close()
	if r := s.ended(run.ID); r.State != "succeeded" {
		t.Fatalf("%+v", r)
	}
	s.chassis("working")
	resp, err = http.PostForm(address, url.Values{"hostname": {"web1"}, "instance_id": {meta.UUID}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("phone home: %s", resp.Status)
	}
	if c := s.chassis("in_service"); c.Name != "web1" || c.InServiceAt == nil {
		t.Errorf("%+v", c)
	}
	if events, err := s.client.ChassisLog(ctx, "web1", 10); err != nil || len(events) != 1 {
		t.Errorf("log: %+v, %v", events, err)
	}
	for name, file := range map[string]string{"database": "teeth.db", "write-ahead log": "teeth.db-wal"} {
		if b, err := os.ReadFile(s.dir + "/" + file); err == nil && bytes.Contains(b, []byte(s.token)) {
			t.Errorf("the %s holds the enrolment token", name)
		}
	}
}

// A chassis that returns without knowing its task, after a power cut or because
// the command was lost, is given it again; one that knows it goes on.
func TestReturningChassis(t *testing.T) {
	ctx := t.Context()
	s := start(t, t.TempDir(), nil)
	a := connect(t, s, "boot1")
	s.chassis("ready")
	run, err := s.client.Decommission(ctx, testMAC, client.Decommission{Disks: []string{"VDA1"}})
	if err != nil {
		t.Fatal(err)
	}
	var first, second teeth.DiskEraseParams
	a.accept(teeth.MethodDiskErase, &first)
	a.report(teeth.TaskStatus{TaskID: first.TaskID, State: teeth.Running, Percent: percent(40), Seq: 9})
	a.conn.Close()

	a = connect(t, s, "boot1", teeth.TaskStatus{TaskID: first.TaskID, State: teeth.Running})
	a.quiet()
	a.conn.Close()

	a = connect(t, s, "boot2")
	a.accept(teeth.MethodDiskErase, &second)
	if second.TaskID != first.TaskID || len(second.Disks) != 1 || second.Disks[0] != first.Disks[0] {
		t.Errorf("sent again: %+v, was %+v", second, first)
	}
	a.report(teeth.TaskStatus{TaskID: second.TaskID, State: teeth.Running, Percent: percent(5), Seq: 1})
	if r := s.run(run.ID); r.Tasks[0].Percent != 5 || r.Tasks[0].BootID != "boot2" {
		t.Errorf("an update after the reboot was taken for an old one: %+v", r.Tasks[0])
	}
	a.report(teeth.TaskStatus{TaskID: second.TaskID, State: teeth.Failed, Msg: "disk VDA1: write error", Seq: 2})
	r := s.ended(run.ID)
	if r.State != "failed" || r.Tasks[0].Msg != "disk VDA1: write error" || r.Tasks[1].State != "cancelled" || r.Tasks[2].State != "cancelled" {
		t.Errorf("%+v", r)
	}
	s.chassis("failed")
}

func TestServerRestartsInTheMiddleOfATask(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	s := start(t, dir, nil)
	a := connect(t, s, "boot1")
	s.chassis("ready")
	run, err := s.client.Decommission(ctx, testMAC, client.Decommission{})
	if err != nil {
		t.Fatal(err)
	}
	var erase teeth.DiskEraseParams
	a.accept(teeth.MethodDiskErase, &erase)
	a.report(teeth.TaskStatus{TaskID: erase.TaskID, State: teeth.Running, Percent: percent(60), Seq: 3})
	pin := s.info.CASHA256
	s.halt()
	a.waitClosed()

	s = start(t, dir, nil)
	if s.info.CASHA256 != pin {
		t.Error("the CA has changed")
	}
	if r := s.run(run.ID); r.State != "running" || r.Tasks[0].Percent != 60 {
		t.Errorf("after the restart: %+v", r)
	}
	if c, err := s.client.Chassis(ctx, testMAC); err != nil || c.Connected {
		t.Errorf("after the restart: %+v, %v", c, err)
	}
	// The agent's final report was not acknowledged before, so it comes now; and
	// once more, as if the acknowledgement were lost.
	final := teeth.TaskStatus{TaskID: erase.TaskID, State: teeth.Complete, Seq: 4}
	a = connect(t, s, "boot1", final)
	a.report(final)
	first := s.run(run.ID).Tasks[0]
	var firmware teeth.FirmwareSecureParams
	a.accept(teeth.MethodFirmwareSecure, &firmware)
	a.report(final)
	a.report(teeth.TaskStatus{TaskID: erase.TaskID, State: teeth.Failed, Msg: "contradiction", Seq: 5})
	if again := s.run(run.ID).Tasks[0]; again.State != "succeeded" || !again.Finished.Equal(*first.Finished) || again.Msg != "" {
		t.Errorf("a final state was recorded twice: %+v, was %+v", again, first)
	}
	a.report(teeth.TaskStatus{TaskID: "of-nobody", State: teeth.Complete})
}

func TestCancel(t *testing.T) {
	ctx := t.Context()
	s := start(t, t.TempDir(), nil)
	a := connect(t, s, "boot1")
	s.chassis("ready")
	run, err := s.client.Decommission(ctx, testMAC, client.Decommission{})
	if err != nil {
		t.Fatal(err)
	}
	var erase teeth.DiskEraseParams
	a.accept(teeth.MethodDiskErase, &erase)
	if task, err := s.client.CancelTask(ctx, erase.TaskID, false); err != nil || !task.Cancel || task.State == "cancelled" {
		t.Fatalf("%+v, %v", task, err)
	}
	var cancel teeth.TaskParams
	a.accept(teeth.MethodTaskCancel, &cancel)
	if cancel.TaskID != erase.TaskID {
		t.Errorf("%+v", cancel)
	}
	a.report(teeth.TaskStatus{TaskID: erase.TaskID, State: teeth.Failed, Msg: "cancelled by the control plane"})
	if r := s.ended(run.ID); r.State != "cancelled" || r.Tasks[2].State != "cancelled" {
		t.Errorf("%+v", r)
	}
	// While the chassis is away, and it returns without the task.
	if run, err = s.client.Decommission(ctx, testMAC, client.Decommission{}); err != nil {
		t.Fatal(err)
	}
	a.accept(teeth.MethodDiskErase, &erase)
	a.conn.Close()
	s.chassis("working")
	eventually(t, "disconnect", func() bool { c, _ := s.client.Chassis(ctx, testMAC); return !c.Connected })
	if _, err := s.client.CancelTask(ctx, erase.TaskID, false); err != nil {
		t.Fatal(err)
	}
	a = connect(t, s, "boot2")
	if r := s.ended(run.ID); r.State != "cancelled" {
		t.Errorf("%+v", r)
	}
	a.quiet()
	if _, err := s.client.CancelTask(ctx, erase.TaskID, false); err == nil {
		t.Error("a finished task was cancelled")
	}
}

func TestAgentRefusesACommand(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	a := connect(t, s, "boot1")
	s.chassis("ready")
	run, err := s.client.Decommission(t.Context(), testMAC, client.Decommission{})
	if err != nil {
		t.Fatal(err)
	}
	m := a.command(teeth.MethodDiskErase)
	a.send(teeth.NewError(m.ID, errors.New("busy with another task")))
	if r := s.ended(run.ID); r.State != "failed" || !strings.Contains(r.Tasks[0].Msg, "busy with another task") {
		t.Errorf("%+v", r)
	}
}

func TestNewerSessionReplacesTheOlder(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	old := connect(t, s, "boot1")
	s.chassis("ready")
	a := connect(t, s, "boot2")
	old.waitClosed()
	eventually(t, "commands over the new session", func() bool {
		_, err := s.client.Inspect(t.Context(), testMAC)
		return err == nil
	})
	if c, err := s.client.Chassis(t.Context(), testMAC); err != nil || !c.Connected || c.BootID != "boot2" {
		t.Errorf("%+v, %v", c, err)
	}
	if list, err := s.client.ListChassis(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%d chassis, %v", len(list), err)
	}
	a.conn.Close()
	s.chassis("offline")
	if _, err := s.client.Inspect(t.Context(), testMAC); err == nil || !strings.Contains(err.Error(), "not connected") {
		t.Errorf("inspected while away: %v", err)
	}
}

func TestLegacyAgent(t *testing.T) {
	ctx := t.Context()
	s := start(t, t.TempDir(), func(c *Config) { c.InsecureAgents = "127.0.0.1:0" })
	l := connectLegacy(t, s.info.InsecureAgents)
	l.serve("status")
	l.line(`{"id": "l1", "version": "v1", "method": "log", "params": {"foo": "bar", "message": "hello", "time": 1795253238.63}}`)
	eventually(t, "legacy chassis", func() bool {
		c, err := s.client.Chassis(ctx, "a:b:c:d")
		return err == nil && c.State == "ready" && c.Version == "0.1-dev"
	})
	if _, err := s.client.UploadImage(ctx, client.NewImage{Name: "img", Format: "raw"}, strings.NewReader("x"), 0); err != nil {
		t.Fatal(err)
	}
	run, err := s.client.Provision(ctx, "a:b:c:d", client.Provision{Image: "img", Hostname: "old"})
	if err != nil {
		t.Fatal(err)
	}
	for i, method := range []string{"standby.cache_images", "standby.prepare_image", "standby.run_image"} {
		params := l.serve(method)
		if len(params) != 2 || params["task_id"] != run.Tasks[i].ID {
			t.Errorf("%s with params %v", method, params)
		}
		l.ping(i)
	}
	r := s.ended(run.ID)
	for _, task := range r.Tasks {
		if task.State != "succeeded" || !strings.Contains(task.Msg, "does not report progress") {
			t.Errorf("%+v", task)
		}
	}
	// What it does not know is never sent.
	if _, err := s.client.Decommission(ctx, "a:b:c:d", client.Decommission{}); err == nil {
		t.Error("a chassis without an inventory was to be decommissioned")
	}
	if events, err := s.client.ChassisLog(ctx, "a:b:c:d", 10); err != nil || len(events) != 1 || events[0].Message != "hello" ||
		string(events[0].Fields) != `{"foo":"bar"}` || events[0].Time.Unix() != 1795253238 {
		t.Errorf("%+v, %v", events, err)
	}
	l.line(`{"fatal_error": "goodbye"}`)
	eventually(t, "end of the session", func() bool { c, err := s.client.Chassis(ctx, "a:b:c:d"); return err == nil && !c.Connected })
}

func TestOneServerForADataDirectory(t *testing.T) {
	dir := t.TempDir()
	start(t, dir, nil)
	if err := Serve(context.Background(), testConfig(dir)); err == nil || !strings.Contains(err.Error(), "in use by another") {
		t.Errorf("a second server: %v", err)
	}
}

// A part that fails ends the whole, and says why.
func TestFailureOfAPart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := testConfig(t.TempDir())
	c.Boot = l.Addr().String()
	if err := Serve(context.Background(), c); err == nil || !strings.Contains(err.Error(), c.Boot) {
		t.Errorf("with its port taken: %v", err)
	}
}

func TestBadSettings(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no directory":     func(c *Config) { c.DataDir = "" },
		"advertised URL":   func(c *Config) { c.AdvertiseURL = "10.0.0.1:8082" },
		"kernel arguments": func(c *Config) { c.KernelArgs = "a\nb" },
		"address":          func(c *Config) { c.Agents = "nowhere" },
	} {
		c := testConfig(t.TempDir())
		change(&c)
		if err := Serve(context.Background(), c); err == nil {
			t.Errorf("%s: served", name)
		}
	}
}

// What an agent gives as its reason goes to operators' terminals.
func TestRefusalIsBoundedAndPrintable(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	a := connect(t, s, "boot1")
	s.chassis("ready")
	run, err := s.client.Decommission(t.Context(), testMAC, client.Decommission{})
	if err != nil {
		t.Fatal(err)
	}
	m := a.command(teeth.MethodDiskErase)
	a.send(teeth.NewError(m.ID, errors.New("no\x1b]0;owned\x07"+strings.Repeat("x", 100<<10))))
	msg := s.ended(run.ID).Tasks[0].Msg
	if !strings.Contains(msg, "no]0;owned") || strings.ContainsAny(msg, "\x1b\x07") || len(msg) > 8<<10 {
		t.Errorf("%d bytes: %.80q", len(msg), msg)
	}
}
