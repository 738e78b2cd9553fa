package initramfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/teeth-metal/teeth/initramfs/iso"
	"github.com/teeth-metal/teeth/initramfs/uki"
)

// Files of Debian's boot loaders, below / or /usr.
const (
	stubFile    = "lib/systemd/boot/efi/linuxx64.efi.stub" // systemd-boot-efi
	isolinuxDir = "lib/ISOLINUX/"                          // isolinux
	ldlinuxFile = "lib/syslinux/modules/bios/ldlinux.c32"  // syslinux-common
)

// loaderFiles is what runs before the kernel where no network boots it.
type loaderFiles struct {
	stub                    []byte
	isolinux, ldlinux, hdpx []byte
}

// loadLoaders reads the boot loaders that the results need.
func (b *builder) loadLoaders(ctx context.Context, pkgs *packages) error {
	for _, l := range []struct {
		wanted         bool
		pkg, dir, name string
		to             *[]byte
	}{
		{b.UKI || b.ISO, "systemd-boot-efi", filepath.Dir(stubFile), filepath.Base(stubFile), &b.loader.stub},
		{b.ISO, "isolinux", isolinuxDir, "isolinux.bin", &b.loader.isolinux},
		{b.ISO, "isolinux", isolinuxDir, "isohdpfx.bin", &b.loader.hdpx},
		{b.ISO, "syslinux-common", filepath.Dir(ldlinuxFile), filepath.Base(ldlinuxFile), &b.loader.ldlinux},
	} {
		if !l.wanted {
			continue
		}
		_, root, err := pkgs.get(ctx, l.pkg, nil)
		if err != nil {
			return fmt.Errorf("boot loader: %w", err)
		}
		dir := subdir(root, l.dir)
		if dir == "" {
			return fmt.Errorf("boot loader: package %s has no %s", l.pkg, l.dir)
		}
		if *l.to, err = os.ReadFile(filepath.Join(dir, l.name)); err != nil {
			return fmt.Errorf("boot loader: %w", err)
		}
	}
	return nil
}

// standalone makes what boots without a network's boot script. The CD holds the
// unified kernel image too, for UEFI.
func (b *builder) standalone(ctx context.Context) (unified, cd []byte, err error) {
	if !b.UKI && !b.ISO {
		return nil, nil, nil
	}
	unified, err = uki.Build(uki.Parts{
		Stub: b.loader.stub, Kernel: b.kernel, Initrd: b.image,
		Cmdline: b.cmdline(), OSRelease: b.osRelease(), Uname: b.manifest.Kernel.Version,
	})
	if err != nil {
		return nil, nil, err
	}
	if b.ISO {
		cd, err = iso.Build(ctx, iso.Parts{
			Kernel: b.kernel, Initrd: b.image, Cmdline: b.cmdline(), UKI: unified,
			Isolinux: b.loader.isolinux, Ldlinux: b.loader.ldlinux, HybridMBR: b.loader.hdpx,
		})
		if err != nil {
			return nil, nil, err
		}
		f := fileOf(b.isoName(), cd)
		b.manifest.ISO = &f
	}
	if !b.UKI {
		return nil, cd, nil
	}
	f := fileOf(b.ukiName(), unified)
	b.manifest.UKI = &f
	return unified, cd, nil
}

// osRelease is os-release(5) of the image.
func (b *builder) osRelease() string {
	return fmt.Sprintf("ID=teeth\nNAME=Teeth\nVERSION_ID=%s\n", b.Version)
}
