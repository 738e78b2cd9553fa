// Package fakekernel writes small trees of kernel modules for tests: real ELF
// files with a .modinfo section and nothing else.
package fakekernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Module returns an ELF file whose .modinfo section holds the given key=value
// fields.
func Module(fields ...string) []byte {
	modinfo := []byte(strings.Join(fields, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	const headerLen, sectionLen = 64, 64
	h := elf.Header64{
		Ident:     [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:      uint16(elf.ET_REL),
		Machine:   uint16(elf.EM_X86_64),
		Version:   uint32(elf.EV_CURRENT),
		Shoff:     uint64(headerLen + len(modinfo) + len(names)),
		Ehsize:    headerLen,
		Shentsize: sectionLen,
		Shnum:     3,
		Shstrndx:  2,
	}
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: headerLen, Size: uint64(len(modinfo)), Addralign: 1},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(headerLen + len(modinfo)), Size: uint64(len(names)), Addralign: 1},
	}
	var b bytes.Buffer
	for _, part := range []any{h, modinfo, names, sections} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err) // fixed-size values into memory
		}
	}
	return b.Bytes()
}

// Write writes files below dir, with their folders.
func Write(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
