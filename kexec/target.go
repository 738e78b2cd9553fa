package kexec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ErrNoTarget is wrapped where the disk holds nothing that kexec could boot:
// the caller should reboot and leave it to the firmware.
var ErrNoTarget = errors.New("no kernel to boot on this disk")

// Partition is one file system of a disk, to look for a boot target in.
type Partition struct {
	FS       fs.FS
	Device   string // /dev/nvme0n1p2
	Number   int    // in the partition table, from 1; 0 is the whole disk
	Table    string // "gpt" or "dos"
	FSType   string // as mount(8) names it: ext4, xfs, btrfs, vfat
	UUID     string // of the file system, as blkid(8) prints it
	Label    string
	PartUUID string
	PartType string // GPT type GUID in lower case, or MBR type as two hex digits
}

// Target is what a disk would boot. The caller must Close one that Find
// returned.
type Target struct {
	Source  string   // "grub", "bls" or "uki"
	Title   string   // of the menu entry
	Device  string   // of the file system that holds the kernel
	Config  string   // the file that named it
	Kernel  string   // path in its file system; "file.efi:.linux" within a UKI
	Initrds []string // all of them, in order
	Cmdline string   // without the terminating NUL; may be added to before Load
	Skipped []string // what was passed over on the way here, and why

	kernel  piece
	initrds []piece
	close   func() error
}

// Close unmounts the file systems that Find mounted. A kernel that is loaded
// stays loaded.
func (t *Target) Close() error {
	if t.close == nil {
		return nil
	}
	err := t.close()
	t.close = nil
	return err
}

// piece is a file, or a part of one (a section of a UKI).
type piece struct {
	fsys fs.FS
	name string
	off  int64
	size int64
	part bool // not the whole file
}

func wholeFile(fsys fs.FS, name string) (piece, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return piece{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return piece{}, err
	}
	if !st.Mode().IsRegular() {
		return piece{}, fmt.Errorf("%s: not a plain file", name)
	}
	return piece{fsys: fsys, name: name, size: st.Size()}, nil
}

// open returns the bytes of p, and the file where p is all of it and the file
// is a real one.
func (p piece) open() (io.Reader, fs.File, *os.File, error) {
	f, err := p.fsys.Open(p.name)
	if err != nil {
		return nil, nil, nil, err
	}
	real, _ := f.(*os.File)
	if !p.part {
		return io.LimitReader(f, p.size), f, real, nil
	}
	at, ok := f.(io.ReaderAt)
	if !ok {
		f.Close()
		return nil, nil, nil, fmt.Errorf("%s: cannot be read at an offset", p.name)
	}
	return io.NewSectionReader(at, p.off, p.size), f, nil, nil
}

// finder looks through the partitions of one disk.
type finder struct {
	ctx     context.Context
	parts   []Partition
	skipped []string

	ukisRead int
}

// skip notes why something on p was passed over, in as few words as a log bears:
// the error may quote a name that fills a file.
func (f *finder) skip(p *Partition, err error) {
	if len(f.skipped) < 100 {
		f.skipped = append(f.skipped, fmt.Sprintf("%s: %.400v", p.Device, err))
	}
}

// FindIn looks for what the boot loader on these file systems, those of one
// disk, would boot by itself. It asks in the order: systemd-boot, GRUB, Boot
// Loader Specification entries without either, a UKI in the place of the
// firmware's default loader. The error wraps ErrNoTarget where there is
// nothing, with the reasons.
func FindIn(ctx context.Context, parts []Partition) (*Target, error) {
	f := &finder{ctx: ctx, parts: parts}
	for _, look := range []func() (*Target, error){f.systemdBoot, f.grub, f.bareEntries, f.defaultUKI} {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t, err := look()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil && t != nil {
			err = t.check()
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoTarget, err)
		}
		if t != nil {
			t.Skipped = f.skipped
			return t, nil
		}
	}
	if len(f.skipped) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoTarget, joinReasons(f.skipped))
	}
	return nil, fmt.Errorf("%w: no boot loader configuration on its %d file systems", ErrNoTarget, len(parts))
}

func joinReasons(reasons []string) string {
	const most = 8
	s := ""
	for i, r := range reasons {
		if i == most {
			return fmt.Sprintf("%s; and %d more", s, len(reasons)-most)
		}
		if i > 0 {
			s += "; "
		}
		s += r
	}
	return s
}

// check sees that the kernel is one, and that all sizes are sane.
func (t *Target) check() error {
	if err := checkKernel(t.kernel); err != nil {
		return fmt.Errorf("%s: kernel %s: %w", t.Device, t.Kernel, err)
	}
	var total int64
	for i, p := range t.initrds {
		if p.size == 0 {
			return fmt.Errorf("%s: initrd %s is empty", t.Device, t.Initrds[i])
		}
		total += p.size
		if p.size > maxInitrd || total > maxInitrd {
			return fmt.Errorf("%s: initrd %s: more than %d MiB", t.Device, t.Initrds[i], maxInitrd>>20)
		}
	}
	return nil
}
