package kexec

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/tools/txtar"
)

// fakeKernel is a bzImage header with nothing behind it.
func fakeKernel() []byte {
	b := make([]byte, 0x400)
	le := binary.LittleEndian
	le.PutUint16(b[0x1fe:], 0xaa55)
	copy(b[0x202:], "HdrS")
	le.PutUint16(b[0x206:], 0x020f)
	b[0x211] = 1
	le.PutUint16(b[0x236:], 3)
	le.PutUint32(b[0x238:], 2047)
	le.PutUint32(b[0x260:], 40<<20)
	return b
}

// disk is what a testdata/*.txtar file describes: partitions, what is to be
// found, and the files, named by partition number and path.
type disk struct {
	parts []Partition
	want  map[string][]string
	err   string
}

func readDisk(t testing.TB, file string) disk {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := disk{want: make(map[string][]string)}
	trees := make(map[int]fstest.MapFS)
	for line := range strings.Lines(string(a.Comment)) {
		line = strings.TrimSuffix(line, "\n")
		key, rest, _ := strings.Cut(line, " ")
		switch key {
		case "part":
			w := strings.Fields(rest)
			n, err := strconv.Atoi(w[0])
			if err != nil {
				t.Fatal(err)
			}
			p := Partition{Number: n, Device: fmt.Sprintf("/dev/sda%d", n), Table: w[1], FSType: w[2]}
			for _, kv := range w[3:] {
				k, v, _ := strings.Cut(kv, "=")
				switch k {
				case "UUID":
					p.UUID = v
				case "LABEL":
					p.Label = v
				case "PARTUUID":
					p.PartUUID = v
				case "TYPE":
					p.PartType = v
				default:
					t.Fatalf("%s: %q", file, line)
				}
			}
			if p.FSType == "-" { // not a file system: Find would not pass it on
				continue
			}
			trees[n] = fstest.MapFS{}
			p.FS = trees[n]
			d.parts = append(d.parts, p)
		case "want":
			k, v, _ := strings.Cut(rest, " ")
			d.want[k] = append(d.want[k], v)
		case "error":
			d.err = rest
		}
	}
	for _, f := range a.Files {
		num, name, _ := strings.Cut(f.Name, "/")
		n, err := strconv.Atoi(num)
		if err != nil || trees[n] == nil {
			t.Fatalf("%s: file %s is on no partition", file, f.Name)
		}
		data := f.Data
		if string(data) == "KERNEL\n" {
			data = fakeKernel()
		}
		trees[n][name] = &fstest.MapFile{Data: data}
	}
	return d
}

func TestFindIn(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 15 {
		t.Fatalf("testdata: %d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			d := readDisk(t, file)
			got, err := FindIn(context.Background(), d.parts)
			if d.err != "" {
				if !errors.Is(err, ErrNoTarget) || !strings.Contains(fmt.Sprint(err), d.err) {
					t.Fatalf("error is %v\nexpected ErrNoTarget with %q", err, d.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			have := map[string][]string{
				"source": {got.Source}, "title": {got.Title}, "device": {got.Device}, "config": {got.Config},
				"kernel": {got.Kernel}, "cmdline": {got.Cmdline},
			}
			if got.Initrds != nil {
				have["initrd"] = got.Initrds
			}
			if got.Skipped != nil {
				have["skipped"] = got.Skipped
			}
			for _, m := range []map[string][]string{d.want, have} {
				for k := range m {
					if !slices.Equal(d.want[k], have[k]) {
						t.Errorf("%s is %q\nexpected %q", k, have[k], d.want[k])
					}
				}
			}
		})
	}
}

func TestFindInCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d := readDisk(t, "testdata/debian12.txtar")
	if _, err := FindIn(ctx, d.parts); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNoTarget) {
		t.Errorf("FindIn with a cancelled context: %v", err)
	}
}

// buildUKI makes a PE file of sections, as objcopy would.
func buildUKI(sections ...[2]string) []byte {
	le := binary.LittleEndian
	const peOff, opt = 0x80, 240
	head := make([]byte, 0x400)
	copy(head, "MZ")
	le.PutUint32(head[0x3c:], peOff)
	copy(head[peOff:], "PE\x00\x00")
	le.PutUint16(head[peOff+6:], uint16(len(sections)))
	le.PutUint16(head[peOff+20:], opt)
	body := bytes.NewBuffer(nil)
	for i, s := range sections {
		e := head[peOff+24+opt+40*i:]
		copy(e[:8], s[0])
		le.PutUint32(e[8:], uint32(len(s[1])))
		le.PutUint32(e[20:], uint32(len(head)+body.Len()))
		body.WriteString(s[1])
		body.Write(make([]byte, -len(s[1])&511))
		le.PutUint32(e[16:], uint32((len(s[1])+511)&^511))
	}
	return append(head, body.Bytes()...)
}

func TestFindUKI(t *testing.T) {
	kernel := string(fakeKernel())
	file := func(sections ...[2]string) *fstest.MapFile { return &fstest.MapFile{Data: buildUKI(sections...)} }
	older := file([2]string{".osrel", "ID=fedora\nVERSION_ID=40\nPRETTY_NAME=\"Fedora 40\"\n"}, [2]string{".linux", kernel})
	newer := file(
		[2]string{".osrel", "ID=fedora\nVERSION_ID=41\nPRETTY_NAME=\"Fedora 41\"\n"},
		[2]string{".cmdline", "root=LABEL=r quiet\n\x00junk"},
		[2]string{".initrd", "main"},
		[2]string{".ucode", "microcode"},
		[2]string{".linux", kernel},
		[2]string{".profile", "ID=other"},
		[2]string{".cmdline", "single"},
	)
	esp := func(fs fstest.MapFS) []Partition {
		return []Partition{{Number: 1, Device: "/dev/sda1", FSType: "vfat", FS: fs}}
	}
	t.Run("newest", func(t *testing.T) {
		got, err := FindIn(context.Background(), esp(fstest.MapFS{"EFI/Linux/z-40.efi": older, "EFI/Linux/a-41.EFI": newer}))
		if err != nil {
			t.Fatal(err)
		}
		if got.Source != "uki" || got.Title != "Fedora 41" || got.Kernel != "EFI/Linux/a-41.EFI:.linux" || got.Cmdline != "root=LABEL=r quiet" ||
			!slices.Equal(got.Initrds, []string{"EFI/Linux/a-41.EFI:.ucode", "EFI/Linux/a-41.EFI:.initrd"}) {
			t.Errorf("found %+v", got)
		}
		f, err := gather(context.Background(), "initrd", got.initrds)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, 64)
		n, _ := f.Read(b)
		if string(b[:n]) != "microcode\x00\x00\x00main" {
			t.Errorf("joined initrds are %q", b[:n])
		}
	})
	t.Run("default of the firmware", func(t *testing.T) {
		got, err := FindIn(context.Background(), esp(fstest.MapFS{"EFI/BOOT/BOOTX64.EFI": newer}))
		if err != nil || got.Title != "Fedora 41" {
			t.Errorf("found %+v, %v", got, err)
		}
	})
	t.Run("named by an entry", func(t *testing.T) {
		got, err := FindIn(context.Background(), esp(fstest.MapFS{
			"EFI/x.efi": newer, "loader/loader.conf": {}, "loader/entries/x.conf": {Data: []byte("title X\nefi \\EFI\\x.efi\noptions debug")}}))
		if err != nil || got.Title != "X" || got.Cmdline != "debug" || got.Source != "uki" {
			t.Errorf("found %+v, %v", got, err)
		}
	})
	t.Run("cut off", func(t *testing.T) {
		cut := &fstest.MapFile{Data: newer.Data[:len(newer.Data)-600]}
		_, err := FindIn(context.Background(), esp(fstest.MapFS{"EFI/Linux/x.efi": cut}))
		if !errors.Is(err, ErrNoTarget) || !strings.Contains(err.Error(), "past the end") {
			t.Errorf("error is %v", err)
		}
	})
}

func FuzzReadUKI(f *testing.F) {
	f.Add(buildUKI([2]string{".linux", "kernel"}, [2]string{".osrel", "ID=x"}, [2]string{".cmdline", "a b"}))
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := readUKI(fstest.MapFS{"x.efi": {Data: data}}, "x.efi")
		if err != nil || u == nil {
			return
		}
		for _, p := range append(u.initrds, u.linux) {
			if p.off < 0 || p.size < 0 || p.off+p.size > int64(len(data)) {
				t.Fatalf("section at %d, %d bytes, of a file of %d", p.off, p.size, len(data))
			}
		}
	})
}

func TestFindNeedsADisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk.raw")
	if _, err := Find(context.Background(), file, Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing disk: %v", err)
	}
	if err := os.WriteFile(file, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Find(context.Background(), file, Options{})
	if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "not a block device") || errors.Is(err, ErrNoTarget) {
		t.Errorf("plain file: %v", err)
	}
}

// Names on a hostile disk may be long and many: neither what was passed over nor
// what is looked at grows with them.
func TestHostileEntriesBounded(t *testing.T) {
	long := strings.Repeat("x", 60000)
	names := strings.Repeat("/i ", 20000)
	env := "# GRUB Environment Block\ni=" + names
	for name, files := range map[string]fstest.MapFS{
		"long paths": {"loader/loader.conf": {}, "loader/entries/a.conf": {Data: []byte("linux /" + long)}},
		"initrds": {"loader/loader.conf": {}, "k": {Data: fakeKernel()}, "i": {Data: []byte("x")}, "grub/grubenv": {Data: []byte(env)},
			"loader/entries/a.conf": {Data: []byte("linux /k\n" + strings.Repeat("initrd $i\n", 32))}},
		// Not 32 of them, and no word of the others.
		"initrd lines": {"loader/loader.conf": {}, "k": {Data: fakeKernel()}, "i": {Data: []byte("x")},
			"loader/entries/a.conf": {Data: []byte("linux /k\n" + strings.Repeat("initrd /i\n", 65))}},
	} {
		_, err := FindIn(context.Background(), []Partition{{FS: files, Device: "/dev/sda1", FSType: "vfat"}})
		if !errors.Is(err, ErrNoTarget) || len(fmt.Sprint(err)) > 4096 {
			t.Errorf("%s: error of %d bytes: %.300v", name, len(fmt.Sprint(err)), err)
		}
	}
	// Entries of 64 KiB, as many as a directory may hold, on several partitions.
	entry := &fstest.MapFile{Data: []byte("title " + long)}
	tree := fstest.MapFS{}
	for i := range 300 {
		tree[fmt.Sprintf("loader/entries/%d.conf", i)] = entry
	}
	var parts []Partition
	for i := range 8 {
		parts = append(parts, Partition{FS: tree, Device: fmt.Sprintf("/dev/sda%d", i+1), FSType: "vfat"})
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := FindIn(context.Background(), parts); !errors.Is(err, ErrNoTarget) {
		t.Errorf("error: %v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 200<<20 {
		t.Errorf("%d MiB allocated", n>>20)
	}
}
