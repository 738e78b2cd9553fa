package kexec

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/kexec/internal/grub"
	"github.com/teeth-metal/teeth/kexec/internal/rootfs"
)

// grubTime bounds how long one configuration may run; a real one takes
// milliseconds.
const grubTime = 20 * time.Second

// grubConfigs is where GRUB's configuration lies: on an EFI system partition
// first, where it mostly points to one of the others, with the default loader
// (EFI/BOOT) after those with a name.
func grubConfigs(p *Partition) []string {
	var files []string
	if p.FSType == "vfat" {
		vendors, err := rootfs.Names(p.FS, "EFI")
		if err == nil {
			last := ""
			for _, v := range sorted(vendors) {
				file := path.Join("EFI", v, "grub.cfg")
				if strings.EqualFold(v, "BOOT") {
					last = file
					continue
				}
				files = append(files, file)
			}
			if last != "" {
				files = append(files, last)
			}
		}
	}
	return append(files, "boot/grub/grub.cfg", "boot/grub2/grub.cfg", "grub/grub.cfg", "grub2/grub.cfg",
		"@/boot/grub/grub.cfg") // Ubuntu on btrfs
}

// grub runs the configurations that it finds until one has something to boot.
// One whose default entry starts something else than Linux ends the search:
// that, and not another kernel on the disk, is what the machine would boot.
func (f *finder) grub() (*Target, error) {
	var vols []*grub.Volume
	owner := make(map[*grub.Volume]*Partition)
	platform := "pc"
	for i := range f.parts {
		p := &f.parts[i]
		v := &grub.Volume{FS: p.FS, Name: grubName(p), Type: p.FSType, UUID: p.UUID, Label: p.Label, PartUUID: p.PartUUID}
		switch p.FSType {
		case "ext4":
			v.Type = "ext2"
		case "vfat":
			v.Type = "fat"
			if rootfs.IsDir(p.FS, "EFI") {
				platform = "efi"
			}
		}
		vols = append(vols, v)
		owner[v] = p
	}
	// The stubs on an EFI system partition first.
	for _, esp := range []bool{true, false} {
		for _, v := range vols {
			p := owner[v]
			if (p.FSType == "vfat") != esp {
				continue
			}
			for _, file := range grubConfigs(p) {
				if !exists(p.FS, file) {
					continue
				}
				t, err := f.runGRUB(vols, v, file, platform, owner)
				if err == nil {
					err = t.check()
				}
				if err == nil {
					return t, nil
				}
				err = fmt.Errorf("%s: %w", file, err)
				if errors.Is(err, grub.ErrNotLinux) {
					return nil, fmt.Errorf("%s: %w", p.Device, err)
				}
				if f.ctx.Err() != nil {
					return nil, f.ctx.Err()
				}
				f.skip(p, err)
			}
		}
	}
	return nil, nil
}

func (f *finder) runGRUB(vols []*grub.Volume, v *grub.Volume, file, platform string, owner map[*grub.Volume]*Partition) (*Target, error) {
	ctx, cancel := context.WithTimeout(f.ctx, grubTime)
	defer cancel()
	c, err := grub.Run(ctx, vols, v, file, platform)
	if err != nil {
		return nil, err
	}
	t := &Target{Source: "grub", Title: c.Title, Device: owner[c.Kernel.Volume].Device, Config: file,
		Kernel: "/" + c.Kernel.Path, Cmdline: c.Cmdline}
	if c.BLS {
		t.Source = "bls"
	}
	if t.kernel, err = wholeFile(c.Kernel.Volume.FS, c.Kernel.Path); err != nil {
		return nil, err
	}
	for _, i := range c.Initrds {
		p, err := wholeFile(i.Volume.FS, i.Path)
		if err != nil {
			return nil, err
		}
		t.Initrds, t.initrds = append(t.Initrds, "/"+i.Path), append(t.initrds, p)
	}
	return t, nil
}

// grubName is what GRUB calls p: firmware starts it from the first disk.
func grubName(p *Partition) string {
	switch {
	case p.Number == 0:
		return "hd0"
	case p.Table == "dos":
		return fmt.Sprintf("hd0,msdos%d", p.Number)
	}
	return fmt.Sprintf("hd0,gpt%d", p.Number)
}
