package osimage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// earlyConfig is within GRUB's core image: it finds the root by its UUID, on
// whatever disk the firmware numbers how.
const earlyConfig = "search.fs_uuid " + fsUUID + " root\nset prefix=($root)/boot/grub\n"

// grubModules are what the core image needs to read the others, and what
// grubConfig uses; firmwareModules, how it reads disks, is built into GRUB for UEFI.
const (
	grubModules     = "part_gpt ext2 search_fs_uuid normal configfile linux gzio serial terminal echo test"
	firmwareModules = "biosdisk "
)

const (
	grubDir  = "/usr/lib/grub/i386-pc"
	coreFile = "/boot/grub/i386-pc/core.img"
	efiFile  = "/boot/grub/bootx64.efi"
)

// coreImage copies GRUB's modules to /boot and makes its core image, with the
// tools within the tree.
func (b *builder) coreImage() error {
	modules, err := filepath.Glob(filepath.Join(b.root, grubDir, "*"))
	if err != nil || len(modules) == 0 {
		return errors.Join(fmt.Errorf("no GRUB in %s", grubDir), err)
	}
	for _, from := range modules {
		switch filepath.Ext(from) {
		case ".mod", ".lst":
		default:
			if filepath.Base(from) != "boot.img" {
				continue
			}
		}
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(b.root, "boot/grub/i386-pc", filepath.Base(from)), data, 0o644); err != nil {
			return err
		}
	}
	const early = "/boot/grub/i386-pc/load.cfg"
	if err := os.WriteFile(filepath.Join(b.root, early), []byte(earlyConfig), 0o644); err != nil {
		return err
	}
	for _, image := range []string{
		"--format=i386-pc --output=" + coreFile + " " + firmwareModules,
		// All that it needs is in it: no module is read from disk.
		"--format=x86_64-efi --output=" + efiFile + " ",
	} {
		err := b.run(b.root, "", "/bin/sh", "-c", "exec grub-mkimage --prefix=/boot/grub --config="+early+" "+image+grubModules)
		if err != nil {
			return err
		}
	}
	return nil
}

// partition makes the file and its GPT: a partition for GRUB's core image, one
// for UEFI, and the root, which the first boot grows.
func (b *builder) partition() error {
	f, err := os.Create(b.raw)
	if err != nil {
		return err
	}
	if err := f.Truncate(rawSize); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	script := "label: gpt\nlabel-id: " + diskGUID + "\n"
	for i, p := range []struct {
		start, size int
		kind, name  string
	}{
		{grubStart, grubSize, "21686148-6449-6E6F-744E-656564454649", "grub"},
		{espStart, espSize, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "esp"},
		{rootStart, rootSize, "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "root"},
	} {
		script += fmt.Sprintf("start=%d, size=%d, type=%s, name=%s, uuid=%s%d\n", p.start, p.size, p.kind, p.name, diskGUID[:35], i+1)
	}
	return b.run("", script, "sfdisk", "--quiet", b.raw)
}

// fileSystem fills the root partition with the tree.
func (b *builder) fileSystem() error {
	// GRUB 2.06 cannot read the two features.
	return b.run("", "", "mkfs.ext4", "-q", "-F", "-L", "root", "-U", fsUUID, "-m", "1", "-O", "^metadata_csum_seed,^orphan_file",
		"-E", "root_owner=0:0,offset="+strconv.Itoa(rootStart*sectorSize), "-d", b.root, b.raw, strconv.Itoa(rootSize/2)+"k")
}

// systemPartition puts GRUB where UEFI firmware looks on a disk that it has no
// boot entry for, as on every disk that an image was written to.
func (b *builder) systemPartition() error {
	at := b.raw + "@@" + strconv.Itoa(espStart*sectorSize)
	for _, step := range [][]string{
		{"mformat", "-i", at, "-T", strconv.Itoa(espSize), "-h", "64", "-s", "32", "-N", "74656574", "-v", "ESP", "::"},
		{"mmd", "-i", at, "::/EFI", "::/EFI/BOOT"},
		{"mcopy", "-i", at, filepath.Join(b.root, efiFile), "::/EFI/BOOT/BOOTX64.EFI"},
	} {
		if err := b.run("", "", step[0], step[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// bootLoader writes boot.img into the MBR's code area and core.img into the BIOS
// boot partition, and tells the one where the other is, as grub-bios-setup does.
func (b *builder) bootLoader() error {
	boot, err := os.ReadFile(filepath.Join(b.root, grubDir, "boot.img"))
	if err != nil {
		return err
	}
	core, err := os.ReadFile(filepath.Join(b.root, coreFile))
	if err != nil {
		return err
	}
	if boot, err = bootSector(boot); err != nil {
		return err
	}
	if core, err = linkCore(core); err != nil {
		return err
	}
	f, err := os.OpenFile(b.raw, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(boot, 0); err != nil {
		return err
	}
	if _, err := f.WriteAt(core, grubStart*sectorSize); err != nil {
		return err
	}
	return f.Close()
}

// bootSector returns the code of GRUB's boot.img, pointed at the core image.
func bootSector(img []byte) ([]byte, error) {
	// Offsets of GRUB's boot.S.
	const kernelSector, bootDrive, driveCheck, codeEnd = 0x5c, 0x64, 0x66, 440
	if len(img) != sectorSize {
		return nil, fmt.Errorf("boot.img is %d bytes, expected %d", len(img), sectorSize)
	}
	code := append([]byte(nil), img[:codeEnd]...) // past it: disk signature and partition table
	binary.LittleEndian.PutUint64(code[kernelSector:], grubStart)
	code[bootDrive] = 0xff // the drive that the BIOS booted from
	// Two no-ops in place of a jump: do check the drive number, as some BIOSes
	// pass nonsense.
	code[driveCheck], code[driveCheck+1] = 0x90, 0x90
	return code, nil
}

// linkCore tells the first sector of a core image, GRUB's diskboot.S, where the
// others lie: in one piece behind it.
func linkCore(core []byte) ([]byte, error) {
	// The list of blocks ends the first sector: start (8 bytes), length and
	// segment (2 bytes each).
	const list, segment = sectorSize - 12, 0x800 + sectorSize/16
	if len(core) <= sectorSize || len(core) > grubSize*sectorSize {
		return nil, fmt.Errorf("core.img is %d bytes, expected up to %d", len(core), grubSize*sectorSize)
	}
	core = append([]byte(nil), core...)
	binary.LittleEndian.PutUint64(core[list:], grubStart+1)
	binary.LittleEndian.PutUint16(core[list+8:], uint16((len(core)-1)/sectorSize))
	binary.LittleEndian.PutUint16(core[list+10:], segment)
	return core, nil
}
