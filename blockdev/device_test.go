package blockdev

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// file makes a plain file of size bytes 0xA5.
func file(t testing.TB, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xA5}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBuffer(t *testing.T) {
	for _, n := range []int{0, 1, 512, Alignment, 1 << 20} {
		b := Buffer(n)
		if len(b) != n || cap(b) != n {
			t.Errorf("Buffer(%d) has length %d, capacity %d", n, len(b), cap(b))
		}
		if n > 0 && uintptr(unsafe.Pointer(&b[0]))%Alignment != 0 {
			t.Errorf("Buffer(%d) is not aligned", n)
		}
	}
}

func TestOpen(t *testing.T) {
	for _, size := range []int{64 << 10, 64<<10 + 512, 1001} {
		d, err := Open(file(t, size), true)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if d.Info.Size != int64(size) {
			t.Errorf("size %d, want %d", d.Info.Size, size)
		}
		if d.Direct && size%Alignment != 0 {
			t.Errorf("a file of %d bytes was opened for direct I/O", size)
		}
		// The whole device can be read and written, its last bytes included.
		b := Buffer(size)
		if _, err := d.ReadAt(b, 0); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
		if !bytes.Equal(b, bytes.Repeat([]byte{0xA5}, size)) {
			t.Errorf("size %d: read something else", size)
		}
		if _, err := d.WriteAt(Buffer(size), 0); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
		if err := d.Flush(); err != nil {
			t.Error(err)
		}
		if err := d.RereadPartitions(); err != nil {
			t.Error(err)
		}
	}
	if _, err := Open("/dev/null", false); err == nil {
		t.Error("a character device was opened as a disk")
	}
}

func TestOpenReadOnly(t *testing.T) {
	d, err := Open(file(t, Alignment), false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.WriteAt(Buffer(Alignment), 0); err == nil {
		t.Error("written through a device opened for reading")
	}
}

func TestZeroing(t *testing.T) {
	const size = 1 << 20
	for _, tt := range []struct {
		name string
		zero func(d *Device) error
	}{
		{"PunchHole", func(d *Device) error { return d.PunchHole(Alignment, size/2) }},
		{"ZeroRange", func(d *Device) error { return d.ZeroRange(Alignment, size/2) }},
		{"Discard", func(d *Device) error { return d.Discard(Alignment, size/2) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := file(t, size)
			d, err := Open(path, true)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			err = tt.zero(d)
			if errors.Is(err, ErrNotSupported) { // by the file system of the temporary directory
				t.Log(err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			want := bytes.Repeat([]byte{0xA5}, size)
			clear(want[Alignment : Alignment+size/2])
			if !bytes.Equal(got, want) {
				t.Error("zeroed something else, or nothing")
			}
		})
	}
}

func TestCommandError(t *testing.T) {
	d := &Device{Info: Info{Path: "/dev/sdx"}}
	for _, e := range []error{unix.EOPNOTSUPP, unix.ENOSYS, unix.ENOTTY} {
		if err := d.commandError("discard", 0, 1, e); !errors.Is(err, ErrNotSupported) {
			t.Errorf("%v: %v", e, err)
		}
	}
	if err := d.commandError("discard", 0, 1, unix.EIO); !errors.Is(err, unix.EIO) || errors.Is(err, ErrNotSupported) {
		t.Errorf("EIO: %v", err)
	}
	if err := d.commandError("discard", 0, 1, nil); err != nil {
		t.Error(err)
	}
}

// A path that comes to mean another thing between looking and opening.
func TestSameDisk(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := sameDisk(dir, Info{Transport: File}); !errors.Is(err, ErrMismatch) {
		t.Errorf("a directory passed for a plain file: %v", err)
	}
}

func TestCheckFree(t *testing.T) {
	const (
		sda   = "sys/devices/pci0000:00/ata1/block/sda"
		mount = "36 35 98:0 / / rw - ext4 /dev/root rw\n"
	)
	base := map[string]string{
		"proc/self/mountinfo": mount,
		"proc/swaps":          "Filename\tType\tSize\tUsed\tPriority\n",
		sda + "/dev":          "8:0\n", sda + "/sda1/dev": "8:1\n", sda + "/sda1/partition": "1\n",
	}
	tests := []struct {
		name string
		add  map[string]string
		busy string // part of the error, or "" when the disk is free
	}{
		{"free", nil, ""},
		{"empty swap list", map[string]string{"proc/swaps": ""}, ""},
		{"another disk mounted", map[string]string{"proc/self/mountinfo": mount + "37 36 8:16 / /mnt rw - ext4 /dev/sdb rw\n"}, ""},
		{"partition mounted", map[string]string{"proc/self/mountinfo": mount + "37 36 8:1 / /mnt/a\\040b rw - ext4 /dev/sda1 rw\n"}, "sda1 is mounted on /mnt/a b"},
		{"disk mounted", map[string]string{"proc/self/mountinfo": mount + "37 36 8:0 / /mnt rw - ext4 /dev/sda rw\n"}, "sda is mounted"},
		{"held by LVM", map[string]string{sda + "/sda1/holders/dm-0": ""}, "held by dm-0"},
		{"held by MD", map[string]string{sda + "/holders/md127": ""}, "held by md127"},
		{"mount table unreadable", map[string]string{"proc/self/mountinfo": "garbage\n"}, "mount table"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string]string{}
			for _, m := range []map[string]string{base, tt.add} {
				for k, v := range m {
					files[k] = v
				}
			}
			root := tree(t, files)
			err := Sysfs{root}.checkDir("/dev/sda", filepath.Join(root, sda))
			if tt.busy == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !bytes.Contains([]byte(err.Error()), []byte(tt.busy)) {
				t.Fatalf("got %v, want %q", err, tt.busy)
			}
			if !errors.Is(err, ErrInUse) && tt.name != "mount table unreadable" {
				t.Errorf("%v does not wrap ErrInUse", err)
			}
		})
	}
}

func TestCheckFreeLoop(t *testing.T) {
	path := file(t, 4096)
	if err := CheckFree(path); err != nil {
		t.Errorf("a plain file nobody uses: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	root := tree(t, map[string]string{"sys/class/block/loop3/loop/backing_file": path + "\n"})
	for _, p := range []string{path, link} { // by inode, so that no other name hides it
		if err := (Sysfs{root}).CheckFree(p); !errors.Is(err, ErrInUse) {
			t.Errorf("%s backs a loop device: %v", p, err)
		}
	}
	if err := (Sysfs{root}).CheckFree(file(t, 4096)); err != nil {
		t.Errorf("another file: %v", err)
	}
}

func TestDevicesName(t *testing.T) {
	d := devices{"8:1": "sda1"}
	st := &unixStat{Mode: syscall.S_IFBLK, Rdev: unix.Mkdev(8, 1)}
	if name, ok := d.name(st); !ok || name != "sda1" {
		t.Errorf("got %q, %v", name, ok)
	}
	st.Mode = syscall.S_IFCHR // a character device may have the same number
	if _, ok := d.name(st); ok {
		t.Error("a character device was taken for a disk")
	}
}

// The disks of the machine the test runs on, whatever they are.
func TestThisMachine(t *testing.T) {
	disks, err := Sysfs{}.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		if d.Size <= 0 || d.LogicalBlock < 512 || d.Parent != "" || d.Name == "" {
			t.Errorf("%+v", d)
		}
		if err := CheckFree(d.Path); err != nil && !errors.Is(err, ErrInUse) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("CheckFree: %v", err)
		}
	}
}
