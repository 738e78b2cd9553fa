package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"strings"
	"testing"
)

// stub is a small PE32+ program with one section.
func stub() []byte {
	b := make([]byte, 0x600)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x80)
	copy(b[0x80:], "PE\x00\x00")
	coff := b[0x84:]
	le.PutUint16(coff, 0x8664)
	le.PutUint16(coff[2:], 1)
	le.PutUint16(coff[16:], 240)
	le.PutUint16(coff[18:], 0x206)
	opt := b[0x98:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[8:], 0x200)
	le.PutUint32(opt[16:], 0x1000) // entry point
	le.PutUint32(opt[32:], 0x200)
	le.PutUint32(opt[36:], 0x200)
	le.PutUint32(opt[56:], 0x1200)
	le.PutUint32(opt[60:], 0x400)
	le.PutUint16(opt[68:], 10) // EFI application
	le.PutUint32(opt[108:], 16)
	text := b[0x98+240:]
	copy(text, ".text")
	le.PutUint32(text[8:], 0x123)
	le.PutUint32(text[12:], 0x1000)
	le.PutUint32(text[16:], 0x200)
	le.PutUint32(text[20:], 0x400)
	le.PutUint32(text[36:], 0x60000020)
	copy(b[0x400:], "code")
	return b
}

func parts() Parts {
	return Parts{
		Stub: stub(), Kernel: bytes.Repeat([]byte("k"), 10000), Initrd: bytes.Repeat([]byte("i"), 5001),
		Cmdline: "console=ttyS0 teeth.server=a:1", OSRelease: "ID=teeth\n", Uname: "6.1.0-test",
	}
}

// TestBuild reads the image with Go's own PE reader.
func TestBuild(t *testing.T) {
	p := parts()
	b, err := Build(p)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		".text": "", ".osrel": p.OSRelease, ".cmdline": p.Cmdline, ".uname": p.Uname,
		".linux": string(p.Kernel), ".initrd": string(p.Initrd),
	}
	end := uint32(0)
	for _, s := range f.Sections {
		content, ok := want[s.Name]
		delete(want, s.Name)
		if !ok {
			t.Errorf("unexpected section %s", s.Name)
		}
		if s.VirtualAddress < end {
			t.Errorf("section %s at %#x lies on the one before, which ends at %#x", s.Name, s.VirtualAddress, end)
		}
		end = s.VirtualAddress + max(s.VirtualSize, s.Size)
		if s.Name == ".text" {
			continue
		}
		data, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		if string(data[:s.VirtualSize]) != content {
			t.Errorf("section %s holds other bytes than it was given", s.Name)
		}
		if s.VirtualAddress%4096 != 0 || s.Offset%0x200 != 0 {
			t.Errorf("section %s is at %#x in memory, %#x in the file", s.Name, s.VirtualAddress, s.Offset)
		}
	}
	if len(want) > 0 {
		t.Errorf("sections are missing: %v", want)
	}
	opt := f.OptionalHeader.(*pe.OptionalHeader64)
	if opt.SizeOfImage < end || opt.AddressOfEntryPoint != 0x1000 {
		t.Errorf("image of %#x bytes does not hold its sections, which end at %#x; entry %#x", opt.SizeOfImage, end, opt.AddressOfEntryPoint)
	}
	field := 0x98 + optCheckSum
	zeroed := append([]byte(nil), b...)
	clear(zeroed[field : field+4])
	if got, want := binary.LittleEndian.Uint32(b[field:]), slowChecksum(zeroed); got != want {
		t.Errorf("checksum %#x, want %#x", got, want)
	}
	if again, err := Build(parts()); err != nil || !bytes.Equal(b, again) {
		t.Errorf("the same parts gave another image (%v)", err)
	}
	if !bytes.Equal(p.Stub, stub()) {
		t.Error("the caller's stub was changed")
	}
}

// slowChecksum sums first and folds once, unlike the code under test.
func slowChecksum(b []byte) uint32 {
	var sum uint64
	for i := 0; i < len(b); i += 2 {
		sum += uint64(b[i]) | uint64(b[i+1])<<8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint32(sum) + uint32(len(b))
}

func TestRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Parts){
		"no stub":          func(p *Parts) { p.Stub = nil },
		"an ELF":           func(p *Parts) { copy(p.Stub, "\x7fELF") },
		"header outside":   func(p *Parts) { binary.LittleEndian.PutUint32(p.Stub[0x3c:], 1<<31) },
		"32-bit":           func(p *Parts) { binary.LittleEndian.PutUint16(p.Stub[0x98:], 0x10b) },
		"full headers":     func(p *Parts) { binary.LittleEndian.PutUint32(p.Stub[0x98+60:], 0x1b0) },
		"odd alignment":    func(p *Parts) { binary.LittleEndian.PutUint32(p.Stub[0x98+36:], 513) },
		"no kernel":        func(p *Parts) { p.Kernel = nil },
		"no initramfs":     func(p *Parts) { p.Initrd = nil },
		"a line break":     func(p *Parts) { p.Cmdline = "a\nb" },
		"an endless line":  func(p *Parts) { p.Cmdline = strings.Repeat("x", MaxCmdline+1) },
		"no command line":  func(p *Parts) { p.Cmdline = "" },
		"umlaut in a line": func(p *Parts) { p.Cmdline = "ä" },
	} {
		p := parts()
		spoil(&p)
		if _, err := Build(p); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzStub gives Build any bytes as a stub: it must not panic, and what it makes
// of them must be readable.
func FuzzStub(f *testing.F) {
	f.Add(stub())
	f.Add([]byte("MZ"))
	f.Add(stub()[:0x190])
	f.Fuzz(func(t *testing.T, b []byte) {
		p := parts()
		p.Stub = b
		image, err := Build(p)
		if err == nil && len(image) < len(b)+len(p.Kernel) {
			t.Error("the image is smaller than its parts")
		}
	})
}
