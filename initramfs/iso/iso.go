// Package iso makes a CD image that boots a kernel and its initramfs by BIOS and
// by UEFI, from a CD drive, a BMC's virtual media or, copied byte by byte, a USB
// stick.
//
// A BIOS finds ISOLINUX by the El Torito boot record. UEFI firmware finds, by a
// second entry there, a FAT file system whose EFI/BOOT/BOOTX64.EFI is a unified
// kernel image. The image is written by xorriso and mtools.
package iso

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/initramfs/uki"
)

// Parts are what a CD image is made of.
type Parts struct {
	Kernel  []byte
	Initrd  []byte
	Cmdline string // of the kernel, for BIOS; UEFI has the one in UKI

	// UKI is a unified kernel image of the same.
	UKI []byte

	// Of Syslinux 6: the CD loader, what it loads next, and the code of a
	// master boot record that makes a disk of the CD.
	Isolinux, Ldlinux, HybridMBR []byte
}

// epoch is the date of everything in the image: the first that FAT knows.
const (
	epoch = "315532800" // 1980-01-01 00:00:00 UTC
	date  = "1980010100000000"
)

// uefi names the FAT image in the CD's tree.
const uefi = "boot/uefi.img"

// Build returns the image. The same parts and the same versions of xorriso and
// mtools give the same bytes.
func Build(ctx context.Context, p Parts) ([]byte, error) {
	image, err := build(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("CD image: %w", err)
	}
	return image, nil
}

func build(ctx context.Context, p Parts) ([]byte, error) {
	if err := uki.CheckCmdline(p.Cmdline); err != nil {
		return nil, err
	}
	for name, part := range map[string][]byte{
		"kernel": p.Kernel, "initramfs": p.Initrd, "unified kernel image": p.UKI,
		"isolinux.bin": p.Isolinux, "ldlinux.c32": p.Ldlinux, "isohdpfx.bin": p.HybridMBR,
	} {
		if len(part) == 0 {
			return nil, fmt.Errorf("no %s given", name)
		}
	}
	tmp, err := os.MkdirTemp("", "teeth-iso-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	tree := filepath.Join(tmp, "tree")
	for name, content := range map[string][]byte{
		"tree/boot/vmlinuz":          p.Kernel,
		"tree/boot/initrd":           p.Initrd,
		"tree/isolinux/isolinux.bin": p.Isolinux,
		"tree/isolinux/ldlinux.c32":  p.Ldlinux,
		"tree/isolinux/isolinux.cfg": isolinuxConfig(p.Cmdline),
		"mbr":                        p.HybridMBR,
		"uki":                        p.UKI,
	} {
		file := filepath.Join(tmp, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return nil, err
		}
	}
	if err := writeESP(ctx, filepath.Join(tree, uefi), filepath.Join(tmp, "uki"), int64(len(p.UKI))); err != nil {
		return nil, err
	}
	out := filepath.Join(tmp, "iso")
	err = run(ctx, "xorriso",
		"-no_rc", "-as", "mkisofs", "-quiet", "-o", out, "-V", "TEETH", "-iso-level", "3", "-r",
		"--set_all_file_dates", date,
		"-c", "isolinux/boot.cat", "-b", "isolinux/isolinux.bin", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table",
		"-isohybrid-mbr", filepath.Join(tmp, "mbr"),
		"-eltorito-alt-boot", "-e", uefi, "-no-emul-boot", "-isohybrid-gpt-basdat",
		tree)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// isolinuxConfig boots at once; what it prints goes to the serial console too.
func isolinuxConfig(cmdline string) []byte {
	return fmt.Appendf(nil, "SERIAL 0 115200\nDEFAULT teeth\nPROMPT 0\nTIMEOUT 0\nLABEL teeth\n"+
		"  KERNEL /boot/vmlinuz\n  INITRD /boot/initrd\n  APPEND %s\n", cmdline)
}

// writeESP makes an EFI system partition that holds one program.
func writeESP(ctx context.Context, image, program string, size int64) error {
	const sector = 512
	sectors := (size+2<<20)/sector | 63 + 1 // room for FATs and directories; whole tracks
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		return err
	}
	for _, step := range [][]string{
		{"mformat", "-i", image, "-C", "-T", fmt.Sprint(sectors), "-h", "64", "-s", "32", "-N", "54454554", "-v", "TEETH", "::"},
		{"mmd", "-i", image, "::/EFI", "::/EFI/BOOT"},
		{"mcopy", "-i", image, program, "::/EFI/BOOT/BOOTX64.EFI"},
	} {
		if err := run(ctx, step[0], step[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	// SOURCE_DATE_EPOCH is honoured by both, for times and for ids made of them.
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+epoch, "TZ=UTC", "LC_ALL=C", "MTOOLSRC=/dev/null", "MTOOLS_SKIP_CHECK=1")
	cmd.WaitDelay = 5 * time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w: install Debian's packages xorriso and mtools", err)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(said.String()))
	}
	return nil
}
