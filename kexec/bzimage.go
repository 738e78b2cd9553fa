package kexec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
)

const (
	maxKernel = 512 << 20 // bytes
	maxInitrd = 2 << 30   // bytes, all together
)

// bzImage is what the setup header tells (Documentation/arch/x86/boot.rst in
// the kernel source).
type bzImage struct {
	initSize   int64 // bytes of memory the kernel needs to unpack itself
	cmdlineMax int   // bytes, without the NUL
}

func checkKernel(p piece) error {
	_, err := readHeader(p)
	return err
}

func readHeader(p piece) (bzImage, error) {
	if p.size > maxKernel {
		return bzImage{}, fmt.Errorf("larger than %d MiB", maxKernel>>20)
	}
	r, f, _, err := p.open()
	if err != nil {
		return bzImage{}, err
	}
	defer f.Close()
	head := make([]byte, 0x270)
	if _, err := io.ReadFull(r, head); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return bzImage{}, errors.New("too short for a Linux kernel")
		}
		return bzImage{}, err
	}
	return parseHeader(head, runtime.GOARCH)
}

func parseHeader(head []byte, arch string) (bzImage, error) {
	le := binary.LittleEndian
	if arch == "arm64" {
		// Documentation/arch/arm64/booting.rst: image_size at 16, magic at 56.
		if string(head[56:60]) != "ARM\x64" {
			return bzImage{}, errors.New("not a Linux kernel image for arm64")
		}
		return bzImage{initSize: int64(min(le.Uint64(head[16:]), 1<<32)), cmdlineMax: 2047}, nil
	}
	const (
		loadedHigh = 1 << 0
		kernel64   = 1 << 0
		above4G    = 1 << 1
	)
	if le.Uint16(head[0x1fe:]) != 0xaa55 || string(head[0x202:0x206]) != "HdrS" {
		return bzImage{}, errors.New("not a Linux kernel image (no bzImage header)")
	}
	version, flags := le.Uint16(head[0x206:]), le.Uint16(head[0x236:])
	// The conditions of the kernel's own bzImage64_probe.
	if version < 0x020c || head[0x211]&loadedHigh == 0 || flags&kernel64 == 0 || flags&above4G == 0 {
		return bzImage{}, fmt.Errorf("not a 64-bit kernel that can be loaded anywhere (boot protocol %d.%02d)", version>>8, version&0xff)
	}
	return bzImage{initSize: int64(le.Uint32(head[0x260:])), cmdlineMax: int(min(le.Uint32(head[0x238:]), 1<<20))}, nil
}
