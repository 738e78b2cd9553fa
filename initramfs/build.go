package initramfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/initramfs/kmod"
	"github.com/teeth-metal/teeth/initramfs/sentinel"
	"github.com/u-root/u-root/pkg/cpio"
)

// Build writes teeth-ARCH.cpio.zst, vmlinuz-ARCH and the manifest
// teeth-ARCH.json (and, if asked, teeth-rescue-ARCH.cpio.zst, teeth-ARCH.efi and
// teeth-ARCH.iso) into Options.OutDir, and returns the manifest. Each file
// appears whole or not at all. A unified kernel image or CD of an earlier build
// goes away if this one makes none, as its agent would be the old one.
func Build(ctx context.Context, opt Options) (*Manifest, error) {
	o, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	p, err := profileByName(o.Profile)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{o.OutDir, o.CacheDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	unlock, err := lock(ctx, o.CacheDir, o.Log)
	if err != nil {
		return nil, err
	}
	defer unlock()
	b := builder{Options: o, profile: p, manifest: &Manifest{
		Format: 1, Profile: o.Profile, Arch: o.Arch, Version: o.Version,
		Modules: []ModuleFile{}, ModulesMissing: []string{}, Firmware: []FirmwareFile{}, FirmwareMissing: []MissingFirmware{},
	}}
	if err := b.build(ctx); err != nil {
		return nil, fmt.Errorf("build %s image: %w", o.Profile, err)
	}
	return b.manifest, nil
}

// builder is one build.
type builder struct {
	Options
	profile  profile
	manifest *Manifest

	kernel []byte
	loader loaderFiles     // for UKI and ISO
	image  []byte          // so far: archives, compressed
	count  sentinel.Counts // of what is in it
}

func (b *builder) build(ctx context.Context) error {
	start := time.Now()
	step := func(name string) {
		b.Log.Debug("step done", "step", name, "after", time.Since(start).Round(time.Millisecond))
	}
	// The agent first: a build most often fails because it does not compile.
	init, info, err := agent(ctx, b.Options)
	if err != nil {
		return err
	}
	b.manifest.Agent = info
	step("agent")
	if err := b.addBase(ctx, init); err != nil {
		return err
	}
	step("base archive")
	if err := b.addKernel(ctx); err != nil {
		return err
	}
	step("kernel, modules and firmware")
	if err := b.addSentinel(ctx); err != nil {
		return err
	}
	b.manifest.Image = fileOf(b.imageName(), b.image)
	var rescue []byte
	if b.Rescue {
		if rescue, err = buildRescue(ctx, b.Options); err != nil {
			return err
		}
		f := fileOf(b.rescueName(), rescue)
		b.manifest.Rescue = &f
		step("rescue image")
	}
	unified, cd, err := b.standalone(ctx)
	if err != nil {
		return err
	}
	step("unified kernel image and CD")
	return b.writeResults(rescue, unified, cd)
}

// writeResults replaces the files of an earlier build, all at the end, so that
// a build that failed leaves a kernel and an image that belong together.
func (b *builder) writeResults(rescue, unified, cd []byte) error {
	manifest, err := b.manifest.encode()
	if err != nil {
		return err
	}
	if rescue != nil {
		if err := writeFile(b.OutDir, b.rescueName(), rescue); err != nil {
			return err
		}
	}
	for name, content := range map[string][]byte{b.ukiName(): unified, b.isoName(): cd} {
		if content != nil {
			err = writeFile(b.OutDir, name, content)
		} else if err = os.Remove(filepath.Join(b.OutDir, name)); err == nil {
			b.Log.Warn("removed the result of an earlier build, which this one does not replace", "file", name)
		} else if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err != nil {
			return err
		}
	}
	if err := writeFile(b.OutDir, b.kernelName(), b.kernel); err != nil {
		return err
	}
	if err := writeFile(b.OutDir, b.imageName(), b.image); err != nil {
		return err
	}
	return writeFile(b.OutDir, b.manifestName(), manifest)
}

// addBase appends the archive of the agent and the empty house around it. It is
// the first, so that the agent runs, and can say what is wrong, even if there is
// no memory for the rest.
func (b *builder) addBase(ctx context.Context, init []byte) error {
	a := newArchive()
	var err error
	for _, dir := range []struct {
		name string
		perm uint64
	}{
		{"dev", 0o755}, {"proc", 0o555}, {"sys", 0o555}, {"run", 0o755}, {"etc", 0o755}, {"mnt", 0o755},
		{"root", 0o700}, {"tmp", 0o1777}, {"var", 0o755}, {"lib", 0o755}, {"lib/modules", 0o755}, {"lib/firmware", 0o755},
	} {
		err = errors.Join(err, a.dir(dir.name, dir.perm))
	}
	for _, dev := range []cpio.Record{
		// Linux Documentation/admin-guide/devices.txt; the kernel opens
		// dev/console for /init before anything can be mounted.
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.CharDev("dev/kmsg", 0o644, 1, 11),
		cpio.CharDev("dev/null", 0o666, 1, 3),
	} {
		err = errors.Join(err, a.add(dev, ""))
	}
	for _, f := range []struct {
		name, content string
		perm          uint64
	}{
		{"init", string(init), 0o755},
		{"etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644},
		{"etc/os-release", b.osRelease(), 0o644},
	} {
		_, e := a.file(f.name, []byte(f.content), f.perm)
		err = errors.Join(err, e)
	}
	if err != nil {
		return err
	}
	compressed, err := a.compressed(ctx)
	b.append(a, compressed)
	return err
}

// addSentinel appends the archive that tells the agent that there is no more.
func (b *builder) addSentinel(ctx context.Context) error {
	b.manifest.Entries, b.manifest.Bytes = b.count.Entries, b.count.Bytes
	a := newArchive()
	if _, err := a.file(sentinel.Name, []byte(b.count.String()), 0o444); err != nil {
		return err
	}
	compressed, err := a.compressed(ctx)
	b.append(a, compressed)
	return err
}

func (b *builder) append(a *archive, compressed []byte) {
	b.image = append(b.image, compressed...)
	b.count.Entries += len(a.records)
	b.count.Bytes += a.bytes
}

// addKernel appends the archive of modules, firmware and certificates, and
// reads the kernel itself.
func (b *builder) addKernel(ctx context.Context) error {
	pkgs, err := openPackages(b.CacheDir, b.Arch, b.Update, b.Log)
	if err != nil {
		return err
	}
	kernelDir := b.KernelDir
	if kernelDir == "" {
		pkg, dir, err := pkgs.kernel(ctx)
		if err != nil {
			return fmt.Errorf("kernel: %w", err)
		}
		kernelDir, b.manifest.Kernel.PackageVersion = dir, pkg.Version
	}
	image, modules, err := findKernel(kernelDir)
	if err != nil {
		return err
	}
	if b.kernel, err = os.ReadFile(image); err != nil {
		return err
	}
	tree, err := kmod.Open(ctx, modules)
	if err != nil {
		return err
	}
	b.manifest.Kernel.File = fileOf(b.kernelName(), b.kernel)
	b.manifest.Kernel.Version = tree.Version

	a := newArchive()
	set, err := addModules(ctx, a, b.manifest, tree, b.profile)
	if err != nil {
		return err
	}
	sources, err := firmwareSources(ctx, pkgs, b.profile, b.KernelDir)
	if err != nil {
		return err
	}
	if err := addFirmware(a, b.manifest, set, sources); err != nil {
		return err
	}
	if b.profile.certificates {
		if err := addCertificates(ctx, a, pkgs); err != nil {
			return err
		}
	}
	if err := b.loadLoaders(ctx, pkgs); err != nil {
		return err
	}
	if n := len(b.manifest.ModulesMissing); n > 0 {
		b.Log.Warn("modules not in this kernel", "count", n, "names", strings.Join(b.manifest.ModulesMissing, ", "))
	}
	if n := len(b.manifest.FirmwareMissing); n > 0 {
		b.Log.Warn("firmware in none of Debian's packages, see the manifest", "count", n)
	}
	b.manifest.Packages = pkgs.list()
	if err := pkgs.prune(); err != nil {
		return err
	}
	compressed, err := cached(ctx, b.CacheDir, a)
	b.append(a, compressed)
	return err
}
