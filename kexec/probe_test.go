package kexec

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/teeth-metal/teeth/internal/need"
)

// superblocks are written here by hand, from the layouts in the kernel source.
func TestProbe(t *testing.T) {
	le := binary.LittleEndian
	uuid := []byte{0x6b, 0x1f, 0x0b, 0x57, 0x83, 0xad, 0x4c, 0x16, 0x9b, 0x9d, 0x4a, 0x0a, 0x3a, 0x6c, 0x1f, 0x10}
	const text = "6b1f0b57-83ad-4c16-9b9d-4a0a3a6c1f10"
	for name, test := range map[string]struct {
		write func([]byte)
		want  superblock
	}{
		"ext4": {func(b []byte) {
			le.PutUint16(b[1024+0x38:], 0xef53)
			copy(b[1024+0x68:], uuid)
			copy(b[1024+0x78:], "root")
		}, superblock{fsType: "ext4", uuid: text, label: "root"}},
		"ext4 journal": {func(b []byte) {
			le.PutUint16(b[1024+0x38:], 0xef53)
			b[1024+0x60] = 8
		}, superblock{what: "an external journal"}},
		"xfs": {func(b []byte) { copy(b, "XFSB"); copy(b[32:], uuid); copy(b[108:], "twelve bytes") },
			superblock{fsType: "xfs", uuid: text, label: "twelve bytes"}},
		"btrfs": {func(b []byte) { copy(b[0x10040:], "_BHRfS_M"); copy(b[0x10020:], uuid); copy(b[0x1012b:], "data") },
			superblock{fsType: "btrfs", uuid: text, label: "data"}},
		"fat32": {func(b []byte) {
			copy(b[510:], "\x55\xaa")
			copy(b[82:], "FAT32   ")
			copy(b[67:], "\x2f\x1c\x3d\x6b")
			copy(b[71:], "UEFI       ")
		}, superblock{fsType: "vfat", uuid: "6B3D-1C2F", label: "UEFI"}},
		"fat16": {func(b []byte) {
			copy(b[510:], "\x55\xaa")
			copy(b[54:], "FAT16   ")
			copy(b[39:], "\x01\x00\x00\x00")
			copy(b[43:], "NO NAME    ")
		}, superblock{fsType: "vfat", uuid: "0000-0001"}},
		"lvm":   {func(b []byte) { copy(b[512:], "LABELONE") }, superblock{what: "an LVM physical volume"}},
		"luks":  {func(b []byte) { copy(b, "LUKS\xba\xbe") }, superblock{what: "a LUKS encrypted volume"}},
		"empty": {func([]byte) {}, superblock{what: "no known file system"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := make([]byte, 128<<10)
			test.write(b)
			got, err := probe(readerAt(b))
			if err != nil || got != test.want {
				t.Errorf("probe says %+v, %v\nexpected %+v", got, err, test.want)
			}
		})
	}
}

type readerAt []byte

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return copy(p, r[off:]), nil }

// What mkfs writes is what probe reads, where mkfs is installed.
func TestProbeMkfs(t *testing.T) {
	for tool, args := range map[string][]string{
		"mkfs.ext4": {"-q", "-F", "-L", "LBL", "-U", "6b1f0b57-83ad-4c16-9b9d-4a0a3a6c1f10"},
		"mkfs.vfat": {"-n", "LBL", "-i", "6B3D1C2F"},
	} {
		bin := need.Program(t, tool, map[string]string{"mkfs.ext4": "e2fsprogs", "mkfs.vfat": "dosfstools"}[tool])
		file := filepath.Join(t.TempDir(), "fs")
		if err := os.WriteFile(file, make([]byte, 4<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(bin, append(args, file)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", tool, err, out)
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got, err := probe(f)
		if err != nil || got.label != "LBL" || (got.uuid != "6B3D-1C2F" && got.uuid != "6b1f0b57-83ad-4c16-9b9d-4a0a3a6c1f10") {
			t.Errorf("%s: probe says %+v, %v", tool, got, err)
		}
	}
}
