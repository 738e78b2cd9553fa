// Package e2e runs whole machines: a control plane as a process of its own and
// chassis in QEMU, two at a time (-parallel 2), since more emulated machines starve
// each other on a small host. It needs what `make setup` installs, and root to build the OS
// image.
package e2e

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/initramfs"
	"github.com/teeth-metal/teeth/lab"
	"github.com/teeth-metal/teeth/lab/estate"
	"github.com/teeth-metal/teeth/lab/osimage"
)

// root is the top folder of the repository.
const root = "../.."

// Built once for all tests.
var (
	binary   string // the teeth program
	bootDir  string // with the appliance image
	osImage  *osimage.Image
	osImages = filepath.Join(root, "out", "debian-12.raw.zst") // kept from one run to the next
)

func TestMain(m *testing.M) {
	code, err := build(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func build(m *testing.M) (int, error) {
	ctx := context.Background()
	tmp, err := os.MkdirTemp("", "teeth-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	binary = filepath.Join(tmp, "teeth")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "./cmd/teeth")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build teeth: %w: %s", err, out)
	}
	bootDir = filepath.Join(tmp, "boot")
	_, err = initramfs.Build(ctx, initramfs.Options{
		OutDir: bootDir, CacheDir: filepath.Join(root, "out", "cache"), SourceDir: root, Log: log, UKI: true,
	})
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(filepath.Dir(osImages), 0o755); err != nil {
		return 0, err
	}
	if osImage, err = osimage.Build(ctx, osImages, log); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// control starts a control plane that ends with the test, and shows its log if
// that failed.
func control(t *testing.T) *estate.ControlPlane {
	t.Helper()
	return controlWith(t, estate.Options{Flags: []string{"--auto-approve", "all"}})
}

func controlWith(t *testing.T, o estate.Options) *estate.ControlPlane {
	t.Helper()
	o.Binary, o.Dir, o.BootDir = binary, t.TempDir(), bootDir
	c, err := estate.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Stop()
		if t.Failed() {
			show(t, "control plane's log", c.LogFile())
		}
	})
	return c
}

// power turns a chassis on; it goes off with the test, and shows its console if
// that failed.
func power(t *testing.T, spec lab.Spec) *lab.Chassis {
	t.Helper()
	c, err := lab.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.PowerCut(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			show(t, "serial console", c.SerialLog())
		}
	})
	return c
}

func show(t *testing.T, what, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > 8<<10 {
		f.Seek(-8<<10, io.SeekEnd)
	}
	b, err := io.ReadAll(f)
	t.Logf("%s ends with (%v):\n%s", what, err, b)
}

// within bounds one step, so that a failure names it.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// direct is the kernel command line of a chassis that boots without firmware and
// boot script, to save the time these take.
func direct(spec lab.Spec, append string) lab.Spec {
	spec.Kernel = filepath.Join(bootDir, "vmlinuz-amd64")
	spec.Initrd = filepath.Join(bootDir, "teeth-amd64.cpio.zst")
	spec.Append = "console=ttyS0 panic=10 " + append
	return spec
}
