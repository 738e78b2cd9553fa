package partition

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/blockdev"
)

// memory is a Disk that counts writes and can lose power after some of them.
type memory struct {
	b     []byte
	limit int // writes until the power goes; negative: never
}

var errPower = errors.New("power cut")

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if m.limit == 0 {
		return 0, errPower
	}
	m.limit--
	return copy(m.b[off:], p), nil
}

func (m *memory) Flush() error { return nil }

const mib = 1 << 20

func linux(first, last uint64, name string) Entry {
	return Entry{Type: LinuxFilesystem, GUID: NewGUID(), Extent: Extent{first, last}, Name: name}
}

func TestGUID(t *testing.T) {
	const s = "0fc63daf-8483-4772-8e79-3d69d8477de4"
	if LinuxFilesystem.String() != s || LinuxFilesystem[0] != 0xaf {
		t.Errorf("got %s, first byte %#x", LinuxFilesystem, LinuxFilesystem[0])
	}
	for _, bad := range []string{"", s[:35], s + "0", strings.ReplaceAll(s, "-", "x"), "0fc63daf-8483-4772-8e79-3d69d8477dzz", strings.Repeat("-", 36)} {
		if _, err := ParseGUID(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
	if g := NewGUID(); g.String()[14] != '4' {
		t.Errorf("%s is not of version 4", g)
	}
}

func TestGPTRoundTrip(t *testing.T) {
	for _, sector := range []int64{512, 4096} {
		d := &memory{b: make([]byte, 8*mib), limit: -1}
		g, err := NewGPT(int64(len(d.b)), sector)
		if err != nil {
			t.Fatal(err)
		}
		want := linux(g.Usable.First, g.Usable.First+9, "räksmörgås 🦷")
		want.Attributes = 1 << 2
		if _, err := g.Add(want); err != nil {
			t.Fatal(err)
		}
		for name, e := range map[string]Entry{
			"overlap":      linux(g.Usable.First+9, g.Usable.First+12, ""),
			"past the end": linux(g.Usable.Last, g.Usable.Last+1, ""),
			"backwards":    linux(g.Usable.Last, g.Usable.Last-1, ""),
			"no type":      {Extent: Extent{g.Usable.Last, g.Usable.Last}},
			"long name":    linux(g.Usable.Last, g.Usable.Last, strings.Repeat("x", 37)),
		} {
			if _, err := g.Add(e); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
		if err := g.Write(d); err != nil {
			t.Fatal(err)
		}
		for _, damage := range []int64{-1, sector, 2 * sector, sector + 60} {
			b := bytes.Clone(d.b)
			if damage >= 0 {
				b[damage] ^= 0xff
			}
			got, err := ReadGPT(bytes.NewReader(b), int64(len(b)), sector)
			if err != nil {
				t.Fatalf("sector %d, damage at %d: %v", sector, damage, err)
			}
			if e, ok := got.Entry(0); !ok || e != want {
				t.Errorf("got %+v, want %+v", e, want)
			}
			if got.FromBackup != (damage >= 0) {
				t.Errorf("damage at %d: FromBackup = %v", damage, got.FromBackup)
			}
		}
		if _, err := ReadGPT(d, int64(len(d.b)), 4608-sector); !errors.Is(err, ErrNoTable) || !strings.Contains(err.Error(), "sectors of") {
			t.Errorf("with the other sector size: %v", err)
		}
	}
}

// A power cut between any two writes leaves the old or the new table readable.
// A disk that holds our partitions and no system must not hang a BIOS.
func TestNewGPTHasBootCode(t *testing.T) {
	d := &memory{b: make([]byte, 4*mib), limit: -1}
	g, err := NewGPT(int64(len(d.b)), 512)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Write(d); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(d.b, []byte{0xcd, 0x18}) {
		t.Errorf("the protective MBR begins with % x", d.b[:8])
	}
}

func TestGPTWritePowerCut(t *testing.T) {
	d := &memory{b: make([]byte, 4*mib), limit: -1}
	g, err := NewGPT(4*mib, 512)
	if err != nil {
		t.Fatal(err)
	}
	old := linux(2048, 4095, "old")
	if _, err := g.Add(old); err != nil {
		t.Fatal(err)
	}
	if err := g.Write(d); err != nil {
		t.Fatal(err)
	}
	// Grown, as an image on a larger disk.
	base := append(bytes.Clone(d.b), make([]byte, 4*mib)...)
	for limit := 0; ; limit++ {
		d := &memory{b: bytes.Clone(base), limit: -1}
		g, err := ReadGPT(d, 8*mib, 512)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Fit(8 * mib); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Add(linux(8192, 10000, "new")); err != nil {
			t.Fatal(err)
		}
		d.limit = limit
		werr := g.Write(d)
		got, err := ReadGPT(d, 8*mib, 512)
		if err != nil {
			t.Fatalf("after %d writes: %v", limit, err)
		}
		if e, _ := got.Entry(0); e != old {
			t.Fatalf("after %d writes: lost the old partition", limit)
		}
		if werr == nil {
			if e, _ := got.Entry(1); e.Name != "new" || limit < 4 {
				t.Fatalf("after %d writes: %+v", limit, e)
			}
			return
		}
	}
}

func sgdisk(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("sgdisk", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("sgdisk %v (package gdisk): %v\n%s", args, err, out)
	}
	return string(out)
}

// A table made by sgdisk, moved to a larger disk and changed by us, is without
// fault to sgdisk.
func TestAgainstSgdisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 8*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	sgdisk(t, "-n", "1:2048:+1M", "-t", "1:ef02", "-c", "1:bios", "-n", "3:0:+2M", "-c", "3:root", "-A", "3:set:2", path)
	if err := os.Truncate(path, 16*mib); err != nil {
		t.Fatal(err)
	}
	d, err := blockdev.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	g, err := ReadGPT(d, 16*mib, 512)
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := g.Entry(2); !ok || e.Name != "root" || e.Attributes != 4 || e.Extent.Sectors() != 4096 {
		t.Errorf("slot 2: %+v", e)
	}
	if err := g.Fit(16 * mib); err != nil {
		t.Fatal(err)
	}
	slot, err := g.Add(linux(28672, 30719, "config-2"))
	if err != nil || slot != 1 {
		t.Fatalf("slot %d, %v", slot, err)
	}
	if err := g.Write(d); err != nil {
		t.Fatal(err)
	}
	if out := sgdisk(t, "-v", path); !strings.Contains(out, "No problems found") {
		t.Error(out)
	}
	if out := sgdisk(t, "-p", path); !strings.Contains(out, "config-2") || !strings.Contains(out, "root") {
		t.Error(out)
	}
}

func TestMBR(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 8*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sfdisk", "-q", path)
	cmd.Stdin = strings.NewReader("label: dos\nstart=2048, size=2048, type=83, bootable\nstart=4096, size=4096, type=5\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk (package fdisk): %v\n%s", err, out)
	}
	d, err := blockdev.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	m, err := ReadMBR(d, 8*mib, 512)
	if err != nil {
		t.Fatal(err)
	}
	if e := m.Entry(0); e != (MBREntry{MBRLinux, Extent{2048, 4095}, true}) {
		t.Errorf("got %+v", e)
	}
	if f := m.Free(); len(f) != 1 || f[0] != (Extent{8192, 16383}) {
		t.Errorf("free: %v", f)
	}
	if err := m.Set(2, MBREntry{Type: MBRLinux, Extent: Extent{8000, 9000}}); !errors.Is(err, ErrNoRoom) {
		t.Errorf("overlap: %v", err)
	}
	if err := m.Set(2, MBREntry{Type: MBRLinux, Extent: Extent{10240, 16384}}); !errors.Is(err, ErrNoRoom) {
		t.Errorf("past the end: %v", err)
	}
	if err := m.Set(2, MBREntry{Type: MBRLinux, Extent: Extent{10240, 16383}}); err != nil {
		t.Fatal(err)
	}
	if err := m.Write(d); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sfdisk", "-d", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "3 : start=       10240, size=        6144, type=83") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestReadMBRRefuses(t *testing.T) {
	fat := make([]byte, mib)
	copy(fat[446:], "This is not a bootable disk.")
	fat[510], fat[511] = 0x55, 0xaa
	overlap := make([]byte, mib)
	overlap[510], overlap[511] = 0x55, 0xaa
	copy(overlap[446:], []byte{4: 0x83, 8: 1, 12: 9})
	copy(overlap[462:], []byte{4: 0x83, 8: 9, 12: 9})
	for name, b := range map[string][]byte{"blank": make([]byte, mib), "FAT boot sector": fat, "overlap": overlap} {
		if _, err := ReadMBR(bytes.NewReader(b), mib, 512); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A table from a hostile image never makes us panic, allocate much, or write a
// table that we would not read.
func FuzzGPT(f *testing.F) {
	d := &memory{b: make([]byte, 256<<10), limit: -1}
	g, err := NewGPT(int64(len(d.b)), 512)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := g.Add(linux(64, 128, "seed")); err != nil {
		f.Fatal(err)
	}
	if err := g.Write(d); err != nil {
		f.Fatal(err)
	}
	f.Add(d.b[512:1024], d.b[1024:2048])
	f.Fuzz(func(t *testing.T, header, entries []byte) {
		b := bytes.Clone(d.b)
		clear(b[len(b)-33*512:])
		copy(b[512:1024], header)
		copy(b[1024:17<<10], entries)
		// The fuzzer cannot guess checksums: make them right.
		seal(b)
		g, err := ReadGPT(bytes.NewReader(b), int64(len(b)), 512)
		if err != nil {
			return
		}
		if g.Fit(int64(len(b))) != nil {
			return
		}
		out := &memory{b: b, limit: -1}
		if err := g.Write(out); err != nil {
			t.Fatal(err)
		}
		again, err := ReadGPT(out, int64(len(b)), 512)
		if err != nil {
			t.Fatal(err)
		}
		if again.FromBackup || !bytes.Equal(again.entries, g.entries) || again.DiskGUID != g.DiskGUID {
			t.Fatal("table changed by writing and reading it")
		}
	})
}

// No boot sector makes us panic, or keep a table that sectors lie outside of.
func FuzzMBR(f *testing.F) {
	seed := make([]byte, 512)
	seed[510], seed[511] = 0x55, 0xaa
	copy(seed[446:], []byte{4: 0x83, 8: 1, 12: 9})
	f.Add(seed)
	f.Fuzz(func(t *testing.T, sector []byte) {
		b := make([]byte, mib)
		copy(b, sector)
		m, err := ReadMBR(bytes.NewReader(b), mib, 512)
		if err != nil {
			return
		}
		for _, e := range append(m.Free(), m.used()...) {
			if e.Last < e.First || e.Last >= mib/512 {
				t.Fatalf("extent %v", e)
			}
		}
	})
}
