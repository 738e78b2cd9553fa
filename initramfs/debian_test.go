package initramfs

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/teeth-metal/teeth/initramfs/kmod"
	"github.com/teeth-metal/teeth/internal/need"
)

// labBudget is what an appliance image of the lab profile may weigh, in bytes.
const labBudget = 6_000_000

// debianCache is the cache of `make image` where there is one, or else a new
// one, which costs a download of 70 MB.
func debianCache(t testing.TB) string {
	need.Time(t, "downloads Debian's kernel")
	need.Program(t, "apt-get", "apt")
	shared := filepath.Join("..", "out", "cache")
	if _, err := os.Stat(filepath.Join(shared, chosenFile)); err == nil {
		return shared
	}
	return t.TempDir()
}

// TestDebian builds the lab image from Debian's kernel and the real agent.
func TestDebian(t *testing.T) {
	needGo(t)
	cache, out := debianCache(t), t.TempDir()
	m, err := Build(context.Background(), Options{OutDir: out, CacheDir: cache, SourceDir: ".."})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d bytes, kernel %s %s", m.Image.Name, m.Image.Size, m.Kernel.Version, m.Kernel.PackageVersion)
	if m.Image.Size > labBudget {
		t.Errorf("image of %d bytes is over the budget of %d", m.Image.Size, labBudget)
	}
	if len(m.ModulesMissing) > 0 {
		t.Errorf("the lab profile names modules that Debian's kernel does not have: %q", m.ModulesMissing)
	}
	if m.Kernel.PackageVersion == "" || len(m.Packages) != 1 || !strings.HasPrefix(m.Packages[0].Name, "linux-image-") {
		t.Errorf("kernel package %q, packages %+v", m.Kernel.PackageVersion, m.Packages)
	}
	if !slices.ContainsFunc(m.Agent.Modules, func(g GoModule) bool { return g.Path == "golang.org/x/sys" && g.Sum != "" }) {
		t.Errorf("Go modules %+v: x/sys is not there, or has no sum", m.Agent.Modules)
	}
	files := map[string]cpio.Record{}
	for _, r := range entries(t, filepath.Join(out, m.Image.Name)) {
		files[r.Name] = r
	}
	base := "lib/modules/" + m.Kernel.Version + "/"
	dep := content(t, files[base+"modules.dep"])
	for line := range strings.Lines(dep) {
		for _, f := range strings.Fields(strings.ReplaceAll(line, ":", " ")) {
			if _, ok := files[base+f]; !ok {
				t.Errorf("modules.dep names %s, which is not in the image", f)
			}
		}
	}
	// Order counts: the loader goes through a line from its end.
	if want := "kernel/drivers/nvme/host/nvme.ko: kernel/drivers/nvme/host/nvme-core.ko "; !strings.Contains(dep, want) {
		t.Errorf("modules.dep has no line that starts with %q", want)
	}
	alias := content(t, files[base+"modules.alias"])
	for _, want := range []string{"alias virtio:d00000001v* virtio_net\n", "alias crypto-crc32c crc32c_generic\n"} {
		if !strings.Contains(alias, want) {
			t.Errorf("modules.alias has no line %q", want)
		}
	}
}

// TestMetalModules holds the metal profile against the drivers that users of
// other provisioning ramdisks found missing in them.
func TestMetalModules(t *testing.T) {
	ctx := context.Background()
	cache := debianCache(t)
	unlock, err := lock(ctx, cache, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	pkgs, err := openPackages(cache, "amd64", false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, dir, err := pkgs.kernel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, modules, err := findKernel(dir)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := kmod.Open(ctx, modules)
	if err != nil {
		t.Fatal(err)
	}
	p := profiles["metal"]
	set, err := tree.Select(p.modules, p.patterns)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Missing) > 0 {
		t.Errorf("the metal profile names modules that Debian's kernel does not have: %q", set.Missing)
	}
	have := map[string]bool{}
	for _, m := range set.Modules {
		have[m.Name] = true
	}
	for _, want := range strings.Fields(`ixgbe i40e ice igb igc e1000e bnx2x bnxt_en tg3 be2net mlx4_en mlx5_core qede ena cxgb4 r8169 realtek
		nvme vmd ahci megaraid_sas mpt3sas mpi3mr hpsa smartpqi aacraid arcmsr pm80xx isci usb_storage uas xhci_pci
		hpilo ipmi_si ipmi_ssif hpwdt iTCO_wdt sp5100_tco i6300esb efivarfs crc32c_generic nls_ascii 8021q bonding`) {
		if !have[want] {
			t.Errorf("metal has no %s", want)
		}
	}
	// Everything below the folders it promises, not a choice of ours.
	for name, m := range tree.Modules {
		for _, dir := range []string{"kernel/drivers/net/ethernet/", "kernel/drivers/ata/", "kernel/drivers/scsi/", "kernel/drivers/watchdog/"} {
			if strings.HasPrefix(m.Path(), dir) && !have[name] {
				t.Errorf("metal has no %s", m.Path())
			}
		}
	}
}

// BenchmarkBuildWarm is a build of the lab image when only the agent may have
// changed.
func BenchmarkBuildWarm(b *testing.B) {
	needGo(b)
	cache, out := debianCache(b), b.TempDir()
	opt := Options{OutDir: out, CacheDir: cache, SourceDir: ".."}
	m, err := Build(context.Background(), opt)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if m, err = Build(context.Background(), opt); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(m.Image.Size), "bytes/zstd")
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/build")
}
