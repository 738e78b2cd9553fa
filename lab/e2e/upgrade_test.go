package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/lab"
	"github.com/teeth-metal/teeth/lab/estate"
)

// TestRamdiskUpgrade has a chassis fetch a signed ramdisk and boot it by kexec: the same
// machine is back, in another boot, with a token of its own for it.
func TestRamdiskUpgrade(t *testing.T) {
	t.Parallel()
	c := controlWith(t, estate.Options{Flags: []string{"--auto-approve", "all"}})
	pin, token := credentials(t, c.Dir)
	spec := direct(lab.Spec{Name: "upgrade", Dir: t.TempDir(), Memory: 512 << 20, NIC: "e1000e"},
		"teeth.server="+c.AgentsFromChassis()+" teeth.ca_sha256="+pin+" teeth.token="+token)
	chassis := power(t, spec)
	before, err := c.WaitChassis(within(t, 5*time.Minute), "LAB-UPGRADE", func(ch client.Chassis) bool { return ch.Connected && ch.Inspected != nil })
	if err != nil {
		t.Fatal(err)
	}

	// Published with the commands an operator has.
	dir := t.TempDir()
	description := filepath.Join(dir, "teeth-amd64.json")
	b, err := os.ReadFile(filepath.Join(bootDir, "teeth-amd64.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(description, b, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(a ...string) string {
		t.Helper()
		cmd := exec.Command(binary, a...)
		cmd.Env = append(os.Environ(), "TEETH_CLIENT="+filepath.Join(c.Dir, "data", "client.json"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", a, err, out)
		}
		return string(out)
	}
	release := filepath.Join(dir, "release")
	key, _ := strings.CutPrefix(strings.TrimSpace(run("agent-version", "keygen", release)), "upgrade_key: ")
	what := []string{"--version", "9999.0.0", "--kind", "image", "--arch", "amd64", description}
	run(append([]string{"agent-version", "sign", "--key", release + ".key"}, what...)...)
	run(append([]string{"agent-version", "add", "--key", release + ".pub"}, what...)...)

	address := strings.TrimSuffix(c.BootURL(), "/boot/ipxe") + "/api/v1/minion"
	command, err := c.RunCommand(t.Context(), client.NewCommand{Chassis: []string{"LAB-UPGRADE"}, Internal: true, Argv: []string{"upgrade", address, key}})
	if err != nil {
		t.Fatal(err)
	}
	r := client.Run{State: "waiting"}
	for ctx := within(t, 5*time.Minute); !r.Final(); time.Sleep(200 * time.Millisecond) {
		if r, err = c.Run(ctx, command.ID, before.ID); err != nil {
			t.Fatal(err)
		}
	}
	if !r.Succeeded() || !strings.Contains(r.Stdout, "9999.0.0") {
		t.Fatalf("%+v", r)
	}
	at, err := chassis.ExpectSerial(within(t, 4*time.Minute), 0, "leaving for another ramdisk")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chassis.ExpectSerial(within(t, 4*time.Minute), at, "Linux version"); err != nil {
		t.Fatal(err)
	}
	after, err := c.WaitChassis(within(t, 5*time.Minute), "LAB-UPGRADE", func(ch client.Chassis) bool {
		return ch.Connected && ch.BootID != "" && ch.BootID != before.BootID
	})
	if err != nil {
		t.Fatal(err)
	}
	if after.ID != before.ID {
		t.Errorf("it is chassis %s, and was %s", after.ID, before.ID)
	}
}
