package e2e

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/lab"
	"github.com/teeth-metal/teeth/lab/estate"
	"github.com/teeth-metal/teeth/lab/netns"
	"github.com/teeth-metal/teeth/lab/netns/netnstest"
)

// ownServers has the control plane be all that a boot network needs.
var ownServers = []string{"--dhcp", netns.Bridge, "--dhcp-range", "192.0.2.100-192.0.2.199", "--tftp", "192.0.2.1:69"}

// network makes a network that ends with the test.
func network(t *testing.T) *netns.Net {
	t.Helper()
	return netnstest.New(t, "192.0.2.1/24").Net // of RFC 5737: nobody's
}

// booted waits until the chassis's agent is connected, and checks the log of its
// boot.
func booted(t *testing.T, c *estate.ControlPlane, serial string, is func(client.Chassis) bool) client.Chassis {
	t.Helper()
	ch, err := c.WaitChassis(within(t, 5*time.Minute), serial, func(ch client.Chassis) bool { return ch.Connected && is(ch) })
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func always(client.Chassis) bool { return true }

func inspected(ch client.Chassis) bool { return ch.Inspected != nil && len(ch.Phases) > 0 }

// teethCommand runs the program as an operator does.
func teethCommand(ctx context.Context, c *estate.ControlPlane, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "TEETH_CLIENT="+filepath.Join(c.Dir, "data", "client.json"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func must(t *testing.T, c *estate.ControlPlane, args ...string) string {
	t.Helper()
	out, err := teethCommand(within(t, 10*time.Minute), c, args...)
	t.Logf("teeth %s\n%s", strings.Join(args, " "), out)
	if err != nil {
		t.Fatalf("teeth %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func expect(t *testing.T, text string, wanted ...string) {
	t.Helper()
	for _, w := range wanted {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in:\n%s", w, text)
		}
	}
}

func serialLog(t *testing.T, c *lab.Chassis) string {
	t.Helper()
	b, err := os.ReadFile(c.SerialLog())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestNetworkBootUEFI leads a chassis through its life by commands alone: its
// firmware's PXE loads iPXE by TFTP, an operator approves it, and graphs
// decommission and provision it. It reboots into its own disk: iPXE gives back to the
// firmware, which goes on to the EFI system partition that the image brought. TestLife
// has kexec.
func TestNetworkBootUEFI(t *testing.T) {
	t.Parallel()
	n := network(t)
	c := controlWith(t, estate.Options{Network: n, Flags: ownServers})
	spec := lab.Spec{
		Name: "uefi", Dir: t.TempDir(), Network: n.Name, Firmware: lab.UEFI, NetBoot: lab.FirmwarePXE, Memory: 768 << 20,
		Disks: []lab.Disk{{Bus: "nvme", Size: 3 * gib}, {Bus: "virtio", Size: gib}},
	}
	fill(t, filepath.Join(spec.Dir, "disk0.raw"), spec.Disks[0].Size)
	chassis := power(t, spec)
	ch := booted(t, c, "LAB-UEFI", always)
	if ch.State != "discovered" {
		t.Errorf("an unknown chassis is %s, want discovered", ch.State)
	}
	if out, err := teethCommand(within(t, time.Minute), c, "graph", "run", "Graph.Decommission", "LAB-UEFI"); err == nil {
		t.Fatalf("a chassis that nobody approved was given work: %s", out)
	}
	must(t, c, "chassis", "approve", "LAB-UEFI")
	booted(t, c, "LAB-UEFI", inspected)
	expect(t, serialLog(t, chassis), "efi: EFI v")
	expect(t, must(t, c, "lease", "list"), chassis.Spec.MAC)
	// Every byte is looked at from outside; TestLife has the agent read all of them.
	must(t, c, "graph", "run", "Graph.Decommission", "LAB-UEFI", "--option", "verify=sample", "--wait")
	if off, err := lab.NonZero(chassis.Spec.DiskPath(0)); err != nil || off >= 0 {
		t.Errorf("the disk holds data at byte %d (%v)", off, err)
	}
	must(t, c, "image", "add", osImage.Path, "--name", "debian")
	options, err := json.Marshal(map[string]any{"defaults": map[string]any{
		"image": "debian", "hostname": "e2e-host", "ssh_keys": []string{sshKey}, "user_data": userData,
		"root_device": map[string]string{"transport": "nvme"}, "boot": "reboot",
	}})
	if err != nil {
		t.Fatal(err)
	}
	must(t, c, "graph", "run", "Graph.Provision", "LAB-UEFI", "--options", optionsFile(t, options), "--wait")
	if _, err := chassis.ExpectSerial(within(t, 6*time.Minute), 0, proof); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WaitChassis(within(t, time.Minute), "LAB-UEFI", func(ch client.Chassis) bool { return ch.State == "in_service" }); err != nil {
		t.Fatal(err)
	}
}

// TestNetworkBootBIOS chain-loads: the iPXE that a BIOS chassis starts with, told
// so as an old or a broken one would have to be, fetches undionly.kpxe from our
// TFTP server; that asks our DHCP server again and gets the boot script.
func TestNetworkBootBIOS(t *testing.T) {
	t.Parallel()
	n := network(t)
	c := controlWith(t, estate.Options{Network: n, Flags: append([]string{"--auto-approve", "subnet=192.0.2.0/24"}, ownServers...)})
	script := filepath.Join(t.TempDir(), "chain.ipxe")
	err := os.WriteFile(script, []byte("#!ipxe\ndhcp\nchain tftp://192.0.2.1/undionly.kpxe\n"), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	power(t, lab.Spec{
		Name: "bios", Dir: t.TempDir(), Network: n.Name, Memory: 256 << 20, Kernel: "/usr/lib/ipxe/ipxe.lkrn", Initrd: script,
	})
	booted(t, c, "LAB-BIOS", inspected)
	log, err := os.ReadFile(c.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	expect(t, string(log), "undionly.kpxe", "chassis boots the ramdisk")
}

// TestNetworkBootUEFIHTTP boots a chassis with nothing but its firmware and the
// unified kernel image: there is no iPXE and no boot script, and the agent learns
// from DHCP who its control plane is.
func TestNetworkBootUEFIHTTP(t *testing.T) {
	t.Parallel()
	n := network(t)
	c := controlWith(t, estate.Options{Network: n, Flags: append([]string{"--auto-approve", "serial=LAB-*", "--ipxe-dir", t.TempDir()}, ownServers...)})
	chassis := power(t, lab.Spec{
		Name: "http", Dir: t.TempDir(), Network: n.Name, Firmware: lab.UEFI, NetBoot: lab.FirmwareHTTP,
	})
	booted(t, c, "LAB-HTTP", inspected)
	if log := serialLog(t, chassis); strings.Contains(log, "teeth.server=") || strings.Contains(log, "iPXE") {
		t.Error("this was to be a boot without iPXE and without a server on the command line")
	}
}

// TestProxyDHCP has another DHCP server, dnsmasq, give the addresses, and ours
// only say what to boot: to UEFI firmware, to iPXE, and with the same two
// servers to chassis behind a relay.
func TestProxyDHCP(t *testing.T) {
	t.Parallel()
	n := network(t)
	c := controlWith(t, estate.Options{Network: n, Flags: []string{
		"--auto-approve", "all", "--dhcp-proxy", netns.Bridge, "--tftp", "192.0.2.1:69",
	}})
	leases := filepath.Join(t.TempDir(), "leases")
	foreign := n.Command(t.Context(), "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--user=root", "--port=0",
		"--interface="+netns.Bridge, "--bind-interfaces", "--dhcp-range=192.0.2.50,192.0.2.60,10m", "--dhcp-authoritative",
		"--dhcp-leasefile="+leases, "--log-dhcp")
	started(t, foreign, "dnsmasq")
	for _, boot := range []struct {
		name string
		spec lab.Spec
	}{
		{"UEFI", lab.Spec{Name: "proxy-uefi", Firmware: lab.UEFI, NetBoot: lab.FirmwarePXE}},
		{"iPXE", lab.Spec{Name: "proxy-ipxe", Memory: 256 << 20}},
	} {
		t.Run(boot.name, func(t *testing.T) {
			spec := boot.spec
			spec.Dir, spec.Network = t.TempDir(), n.Name
			chassis := power(t, spec)
			booted(t, c, chassis.Spec.Serial, inspected)
			b, err := os.ReadFile(leases)
			if err != nil || !strings.Contains(string(b), chassis.Spec.MAC) {
				t.Errorf("the other DHCP server gave no lease (%v): %s", err, b)
			}
		})
	}
	if out := must(t, c, "lease", "list"); strings.Contains(out, "192.0.2.") {
		t.Errorf("our proxy has given an address: %s", out)
	}
}

// TestRelay boots a chassis in a network that reaches the control plane through
// a router with a DHCP relay.
func TestRelay(t *testing.T) {
	t.Parallel()
	n := network(t)
	behind := netip.MustParsePrefix("198.51.100.1/24")
	r, err := n.Behind(t.Context(), behind, netip.MustParseAddr("192.0.2.254"))
	if err != nil {
		t.Fatal(err)
	}
	c := controlWith(t, estate.Options{Network: n, Flags: append([]string{"--auto-approve", "all"}, ownServers...)})
	must(t, c, "subnet", "add", "198.51.100.0/24", "--pool", "198.51.100.20-198.51.100.40", "--gateway", "198.51.100.1")
	started(t, r.Command(t.Context(), "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--user=root", "--port=0",
		"--dhcp-relay=198.51.100.1,192.0.2.1"), "dnsmasq's relay")
	power(t, lab.Spec{Name: "relay", Dir: t.TempDir(), Network: r.Name, Memory: 256 << 20})
	booted(t, c, "LAB-RELAY", inspected)
	expect(t, must(t, c, "lease", "list"), "198.51.100.")
}

// started starts a server that ends with the test.
func started(t *testing.T, cmd *exec.Cmd, what string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() // fails when it has ended
		cmd.Wait()
		if t.Failed() {
			show(t, what, log)
		}
	})
}
