package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/lab"
	"github.com/teeth-metal/teeth/lab/estate"
	"github.com/teeth-metal/teeth/lab/netns"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const (
	gib    = 1 << 30
	secret = "what the former tenant left behind"
	proof  = "PROOF host=e2e-host keys=1 command=ran"

	userData = `#cloud-config
runcmd:
  - [sh, -c, 'echo "PROOF host=$(hostname) keys=$(grep -c e2e@teeth /home/debian/.ssh/authorized_keys) command=ran" > /dev/ttyS0']
`
	sshKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB7Hn2bQ0m1tB9i1q3d8q0oPZs1XKJcYQmB5hF0gN4aD e2e@teeth"
)

// estateOfOne is a control plane and the chassis that the long test leads
// through its life.
type estateOfOne struct {
	*estate.ControlPlane
	spec    lab.Spec
	chassis *lab.Chassis
}

// TestLife leads one chassis from power-on to a running Debian and back to empty
// disks, through what goes wrong on the way: each step needs the one before. It
// boots by our DHCP, TFTP and HTTP, or without root by QEMU's user network.
func TestLife(t *testing.T) {
	t.Parallel()
	e := &estateOfOne{spec: lab.Spec{
		Name: "life", Dir: t.TempDir(), Disks: []lab.Disk{{Bus: "nvme", Size: 3 * gib}, {Bus: "virtio", Size: 2 * gib}},
	}}
	if why := netns.Available(); why == nil {
		n := network(t)
		e.ControlPlane = controlWith(t, estate.Options{Network: n, Flags: append([]string{"--auto-approve", "all"}, ownServers...)})
		e.spec.Network = n.Name
	} else {
		t.Logf("in QEMU's user network: %v", why)
		e.ControlPlane = control(t)
		e.spec.BootURL = e.BootURL()
	}
	for i, d := range e.spec.Disks {
		fill(t, filepath.Join(e.spec.Dir, fmt.Sprintf("disk%d.raw", i)), d.Size)
	}
	for _, step := range []struct {
		name string
		run  func(*testing.T, *estateOfOne)
	}{
		{"boots over the network", netboot},
		{"control plane killed during an erase", killedErase},
		{"image with a wrong digest is refused and nothing is written", wrongDigest},
		{"power cut while the image is written", powerCut},
		{"Debian reads the config drive and calls back", inService},
		{"a chassis in service boots its disk", bootsItsDisk},
		{"decommissioned, nothing is left", decommissioned},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, e) }) {
			if e.chassis != nil {
				show(t, "serial console", e.chassis.SerialLog())
			}
			break
		}
	}
	if e.chassis != nil {
		if err := e.chassis.PowerCut(); err != nil {
			t.Error(err)
		}
	}
}

// fill makes a disk with data at its beginning, middle and end.
func fill(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text := bytes.Repeat([]byte(secret), 4096)
	for _, off := range []int64{0, size / 2, size - int64(len(text))} {
		if _, err := f.WriteAt(text, off); err != nil {
			t.Fatal(err)
		}
	}
}

// on powers the chassis on. It stays on for the steps that follow.
func (e *estateOfOne) on(t *testing.T) {
	t.Helper()
	var err error
	if e.chassis, err = lab.Start(context.WithoutCancel(t.Context()), e.spec); err != nil {
		t.Fatal(err)
	}
}

// connected waits for an agent that booted after the given boot.
func (e *estateOfOne) connected(t *testing.T, before string) client.Chassis {
	t.Helper()
	ch, err := e.WaitChassis(within(t, 4*time.Minute), "LAB-LIFE", func(ch client.Chassis) bool {
		return ch.Connected && ch.Inspected != nil && ch.BootID != before
	})
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// waitTask waits until is says yes to the task of a run with this method.
func (e *estateOfOne) waitTask(t *testing.T, run, method string, is func(client.Task) bool) client.Task {
	t.Helper()
	ctx := within(t, 5*time.Minute)
	for {
		r, err := e.Graph(ctx, run)
		if err != nil && !errors.Is(err, client.ErrUnreachable) {
			t.Fatal(err)
		}
		for _, task := range r.Tasks {
			if task.Method == method && is(task) {
				return task
			}
			if task.Method == method && task.Final() {
				t.Fatalf("task %s ended as %s: %s", method, task.State, task.Msg)
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("task %s: %v; run is %+v", method, ctx.Err(), r)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func netboot(t *testing.T, e *estateOfOne) {
	e.on(t)
	ch := e.connected(t, "")
	if len(ch.Phases) == 0 {
		t.Error("the boot's phases did not arrive")
	}
	for _, p := range ch.Phases {
		if p.Error != "" {
			t.Errorf("boot phase %s: %s", p.Name, p.Error)
		}
	}
	for _, serial := range []string{e.chassis.Spec.Disks[0].Serial, e.chassis.Spec.Disks[1].Serial} {
		if !strings.Contains(string(ch.Inventory), serial) {
			t.Errorf("disk %s is not in the inventory", serial)
		}
	}
}

func killedErase(t *testing.T, e *estateOfOne) {
	run, err := e.Decommission(t.Context(), "LAB-LIFE", client.Decommission{Method: "overwrite"})
	if err != nil {
		t.Fatal(err)
	}
	e.waitTask(t, run.ID, teeth.MethodDiskErase, func(task client.Task) bool { return task.Percent >= 5 })
	e.Kill()
	time.Sleep(2 * time.Second) // the agent notices, and goes on erasing
	if err := e.Restart(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	end, err := e.Follow(within(t, 8*time.Minute), run.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	allErased(t, end.Tasks[0], e.chassis.Spec.Disks)
	e.allZero(t)
}

// allErased checks the report of an erasure.
func allErased(t *testing.T, task client.Task, disks []lab.Disk) {
	t.Helper()
	var result struct {
		Disks []struct {
			BytesErased   int64 `json:"bytes_erased"`
			BytesVerified int64 `json:"bytes_verified"`
		}
	}
	decode(t, task.Result, &result)
	for i, d := range disks {
		if i >= len(result.Disks) || result.Disks[i].BytesErased != d.Size || result.Disks[i].BytesVerified != d.Size {
			t.Errorf("disk %s: report is %+v, want %d bytes erased and verified", d.Serial, result.Disks, d.Size)
		}
	}
}

// allZero looks at the disks from outside.
func (e *estateOfOne) allZero(t *testing.T) {
	t.Helper()
	for i := range e.chassis.Spec.Disks {
		off, err := lab.NonZero(e.chassis.Spec.DiskPath(i))
		if err != nil {
			t.Fatal(err)
		}
		if off >= 0 {
			t.Errorf("disk %s holds data at byte %d", e.chassis.Spec.Disks[i].Serial, off)
		}
	}
}

// wrongDigest has the control plane hand out a file that is not the one that was
// added, as a broken disk or an intruder there would.
func wrongDigest(t *testing.T, e *estateOfOne) {
	img := e.upload(t, "broken")
	files, err := filepath.Glob(filepath.Join(e.Dir, "data", "images", "*"))
	if err != nil {
		t.Fatal(err)
	}
	spoiled := 0
	for _, name := range files {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := f.Stat(); err == nil && st.Size() == img.Size {
			var b [1]byte
			f.ReadAt(b[:], img.Size/2)
			b[0] ^= 1
			if _, err := f.WriteAt(b[:], img.Size/2); err != nil {
				t.Fatal(err)
			}
			spoiled++
		}
		f.Close()
	}
	if spoiled != 1 {
		t.Fatalf("%d image files in %s, want 1", spoiled, files)
	}
	run := e.provision(t, "broken")
	_, err = e.Follow(within(t, 5*time.Minute), run.ID, nil)
	if err == nil || !strings.Contains(err.Error(), "digest") {
		t.Fatalf("got %v, want an error about the digest", err)
	}
	off, err := lab.NonZero(e.chassis.Spec.DiskPath(0))
	if err != nil {
		t.Fatal(err)
	}
	if off >= 0 {
		t.Errorf("a refused image left data on the root device at byte %d", off)
	}
	if err := e.RemoveImage(t.Context(), "broken"); err != nil {
		t.Error(err)
	}
}

func (e *estateOfOne) upload(t *testing.T, name string) client.Image {
	t.Helper()
	f, err := os.Open(osImage.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := e.UploadImage(within(t, 2*time.Minute), client.NewImage{Name: name, Format: "raw.zst", SHA256: osImage.SHA256}, f, osImage.Size)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func (e *estateOfOne) provision(t *testing.T, image string) client.Graph {
	t.Helper()
	run, err := e.Provision(t.Context(), "LAB-LIFE", client.Provision{
		Image: image, Hostname: "e2e-host", SSHKeys: []string{sshKey}, UserData: userData,
		RootDevice: &teeth.RootDevice{Transport: "nvme"}, Boot: "kexec",
	})
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func powerCut(t *testing.T, e *estateOfOne) {
	e.upload(t, "debian")
	before, err := e.Chassis(t.Context(), "LAB-LIFE")
	if err != nil {
		t.Fatal(err)
	}
	run := e.provision(t, "debian")
	e.waitTask(t, run.ID, teeth.MethodPrepareImage, func(task client.Task) bool { return task.Percent >= 20 })
	if err := e.chassis.PowerCut(); err != nil {
		t.Fatal(err)
	}
	if half, err := lab.Search(e.chassis.Spec.DiskPath(0), []byte("Debian")); err != nil || half < 0 {
		t.Errorf("nothing was written when the power went (%v)", err)
	}
	head := make([]byte, 1<<20)
	f, err := os.Open(e.chassis.Spec.DiskPath(0))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(head, make([]byte, len(head))) {
		t.Error("a half-written disk could boot: its first MiB is not zero")
	}
	e.on(t)
	e.connected(t, before.BootID)
	end, err := e.Follow(within(t, 5*time.Minute), run.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range end.Tasks {
		if task.State != "succeeded" {
			t.Errorf("task %s is %s: %s", task.Method, task.State, task.Msg)
		}
	}
}

func inService(t *testing.T, e *estateOfOne) {
	ctx := within(t, 6*time.Minute)
	if _, err := e.chassis.ExpectSerial(ctx, 0, proof); err != nil {
		t.Fatal(err)
	}
	if _, err := e.WaitChassis(ctx, "LAB-LIFE", func(ch client.Chassis) bool { return ch.State == "in_service" }); err != nil {
		t.Fatal(err)
	}
}

// bootsItsDisk takes the power away and gives it back: the boot script must send
// the chassis to its own boot loader, which kexec has passed by until now.
func bootsItsDisk(t *testing.T, e *estateOfOne) {
	if err := e.chassis.PowerCut(); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(e.chassis.SerialLog())
	if err != nil {
		t.Fatal(err)
	}
	e.on(t)
	if _, err := e.chassis.ExpectSerial(within(t, 6*time.Minute), st.Size(), "e2e-host login:"); err != nil {
		t.Fatal(err)
	}
	if ch, err := e.Chassis(t.Context(), "LAB-LIFE"); err != nil || ch.Connected || ch.State != "in_service" {
		t.Errorf("chassis is %+v, %v; want it in service, its agent gone", ch.State, err)
	}
}

// decommissioned asks for it while the chassis is in service: it happens when
// the chassis next boots.
func decommissioned(t *testing.T, e *estateOfOne) {
	for _, needle := range []string{"config-2", "e2e-host"} {
		if off, err := lab.Search(e.chassis.Spec.DiskPath(0), []byte(needle)); err != nil || off < 0 {
			t.Errorf("%q is not on the disk before it is erased (%v): not finding it later would prove nothing", needle, err)
		}
	}
	run, err := e.Decommission(t.Context(), "LAB-LIFE", client.Decommission{Verify: "sample"})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.chassis.PowerCut(); err != nil {
		t.Fatal(err)
	}
	e.on(t)
	if _, err := e.Follow(within(t, 8*time.Minute), run.ID, nil); err != nil {
		t.Fatal(err)
	}
	if err := e.chassis.PowerCut(); err != nil {
		t.Fatal(err)
	}
	e.allZero(t)
}
