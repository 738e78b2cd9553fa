package e2e

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/initramfs"
	"github.com/teeth-metal/teeth/lab"
)

// TestCD boots the CD image, which names the control plane and its pin, by BIOS
// and by UEFI, as a chassis whose network nobody may serve DHCP in.
func TestCD(t *testing.T) {
	t.Parallel()
	c := control(t)
	pin, token := credentials(t, c.Dir)
	out := t.TempDir()
	_, err := initramfs.Build(t.Context(), initramfs.Options{
		OutDir: out, CacheDir: filepath.Join(root, "out", "cache"), SourceDir: root, ISO: true,
		Append: "panic=10 teeth.server=" + c.AgentsFromChassis() + " teeth.ca_sha256=" + pin + " teeth.token=" + token,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range []lab.Spec{{Name: "cd-bios", Firmware: lab.BIOS}, {Name: "cd-uefi", Firmware: lab.UEFI}} {
		t.Run(string(spec.Firmware), func(t *testing.T) {
			spec.Dir, spec.CD = t.TempDir(), filepath.Join(out, "teeth-amd64.iso")
			chassis := power(t, spec)
			_, err := c.WaitChassis(within(t, 4*time.Minute), chassis.Spec.Serial, func(ch client.Chassis) bool {
				return ch.Connected && inspected(ch)
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
