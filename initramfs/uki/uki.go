// Package uki makes unified kernel images: one UEFI program that is kernel,
// initramfs and kernel command line, as the UAPI group's specification "Unified
// Kernel Image" describes it. UEFI firmware boots it from a disk, from a CD or
// over HTTP, with no boot loader.
//
// The program itself is systemd's stub; the parts are sections behind it.
package uki

import (
	"errors"
	"fmt"
)

// Parts are what an image is made of.
type Parts struct {
	Stub   []byte // systemd's linuxx64.efi.stub
	Kernel []byte // bzImage with an EFI entry
	Initrd []byte

	// Cmdline is the kernel's command line, printable ASCII. Firmware that
	// gives load options of its own replaces it, unless Secure Boot is on.
	Cmdline string
	// OSRelease is shown by boot loaders, os-release(5).
	OSRelease string
	Uname     string // the kernel's version, "" if not known
}

// MaxCmdline is the longest command line that Linux takes on x86, in bytes.
const MaxCmdline = 2047

// Build returns the image. The same parts give the same bytes.
func Build(p Parts) ([]byte, error) {
	if err := CheckCmdline(p.Cmdline); err != nil {
		return nil, err
	}
	if len(p.Kernel) == 0 || len(p.Initrd) == 0 {
		return nil, errors.New("unified kernel image: needs a kernel and an initramfs")
	}
	sections := []section{{".osrel", []byte(p.OSRelease)}, {".cmdline", []byte(p.Cmdline)}}
	if p.Uname != "" {
		sections = append(sections, section{".uname", []byte(p.Uname)})
	}
	// The kernel last: stubs that start it in place let it use memory behind its
	// own end, by when the initrd before it has been copied away.
	sections = append(sections, section{".initrd", p.Initrd}, section{".linux", p.Kernel})
	image, err := appendSections(p.Stub, sections)
	if err != nil {
		return nil, fmt.Errorf("unified kernel image: stub: %w", err)
	}
	return image, nil
}

// CheckCmdline reports what a boot loader or the kernel would not take.
func CheckCmdline(s string) error {
	if s == "" || len(s) > MaxCmdline {
		return fmt.Errorf("kernel command line of %d bytes: Linux takes 1 to %d", len(s), MaxCmdline)
	}
	for _, r := range s {
		if r < ' ' || r > '~' {
			return fmt.Errorf("kernel command line: %q is not printable ASCII", r)
		}
	}
	return nil
}
