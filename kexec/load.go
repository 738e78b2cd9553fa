package kexec

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Load hands the target to the kernel, which keeps it until Exec. All initrds
// are joined in order. It needs CAP_SYS_BOOT, CONFIG_KEXEC_FILE and a kernel
// that is not locked down; what is missing is in the error. After an error no
// kernel is loaded.
func (t *Target) Load(ctx context.Context) error {
	if err := t.load(ctx); err != nil {
		// A kernel from an earlier Load must not be what Exec starts.
		return errors.Join(fmt.Errorf("%s: load %s: %w", t.Device, t.Kernel, err), Unload())
	}
	return nil
}

func (t *Target) load(ctx context.Context) error {
	header, err := readHeader(t.kernel)
	if err != nil {
		return err
	}
	if strings.IndexByte(t.Cmdline, 0) >= 0 || strings.IndexByte(t.Cmdline, '\n') >= 0 {
		return errors.New("command line holds a NUL or a line break")
	}
	if n := len(t.Cmdline); n > header.cmdlineMax {
		return fmt.Errorf("command line is %d bytes long, the kernel takes %d", n, header.cmdlineMax)
	}
	if err := t.checkMemory(header); err != nil {
		return err
	}
	kernel, err := gather(ctx, "kernel", []piece{t.kernel})
	if err != nil {
		return err
	}
	defer kernel.Close()
	flags, initrd := unix.KEXEC_FILE_NO_INITRAMFS, -1
	if len(t.initrds) > 0 {
		f, err := gather(ctx, "initrd", t.initrds)
		if err != nil {
			return err
		}
		defer f.Close()
		flags, initrd = 0, int(f.Fd())
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := unix.KexecFileLoad(int(kernel.Fd()), initrd, t.Cmdline, flags); err != nil {
		return explain(err)
	}
	return ctx.Err()
}

// gather returns a file with the pieces one after the other, each padded with
// zeros to a multiple of four bytes as the kernel's initramfs unpacker wants. A
// single whole file is returned itself; else the bytes are in memory.
func gather(ctx context.Context, name string, pieces []piece) (_ *os.File, err error) {
	if len(pieces) == 1 && !pieces[0].part {
		_, f, real, err := pieces[0].open()
		if err != nil {
			return nil, err
		}
		if real != nil {
			return real, nil
		}
		f.Close()
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("%s: memfd: %w", name, err)
	}
	mem := os.NewFile(uintptr(fd), name)
	defer mem.Close()
	for _, p := range pieces {
		if err := appendPiece(ctx, mem, p); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	// The kernel refuses (ETXTBSY) a file that is open for writing.
	return os.Open("/proc/self/fd/" + strconv.Itoa(fd))
}

func appendPiece(ctx context.Context, to *os.File, p piece) error {
	r, f, _, err := p.open()
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(to, readerContext{ctx, r})
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	if n != p.size {
		return fmt.Errorf("%s: %d bytes read, %d expected: %w", p.name, n, p.size, io.ErrUnexpectedEOF)
	}
	_, err = to.Write(make([]byte, -n&3))
	return err
}

type readerContext struct {
	ctx context.Context
	io.Reader
}

func (r readerContext) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// checkMemory refuses what would end in the out-of-memory killer. The kernel
// reads both files into memory, then copies them into segments, of which the
// kernel's has room to unpack it.
func (t *Target) checkMemory(h bzImage) error {
	const margin = 16 << 20
	var initrd int64
	for _, p := range t.initrds {
		initrd += p.size
	}
	need := t.kernel.size + max(h.initSize, t.kernel.size) + 2*initrd + margin
	if len(t.initrds) > 1 || t.kernel.part {
		need += initrd // the joined copy
	}
	if t.kernel.part {
		need += t.kernel.size
	}
	free, err := availableMemory()
	if err != nil {
		return err
	}
	if need > free {
		return fmt.Errorf("not enough memory: %d MiB needed for a kernel of %d MiB and initrds of %d MiB, %d MiB available",
			need>>20, t.kernel.size>>20, initrd>>20, free>>20)
	}
	return nil
}

func availableMemory() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("free memory: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if w := strings.Fields(lines.Text()); len(w) >= 2 && w[0] == "MemAvailable:" {
			kib, err := strconv.ParseInt(w[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("free memory: /proc/meminfo has no MemAvailable")
}

// explain says what the errors of kexec_file_load(2) mean.
func explain(err error) error {
	var why string
	switch {
	case errors.Is(err, unix.EPERM):
		why = "not permitted"
		switch {
		case lockdown() != "":
			why = "kernel lockdown (" + lockdown() + ") refuses it"
		case sysctl("kernel/kexec_load_disabled") == "1":
			why = "sysctl kernel.kexec_load_disabled is set"
		case os.Geteuid() != 0:
			why = "must be root"
		default:
			why = "kernel lockdown, or no CAP_SYS_BOOT"
		}
	case errors.Is(err, unix.ENOSYS):
		why = "this kernel is built without CONFIG_KEXEC_FILE"
	case errors.Is(err, unix.EKEYREJECTED), errors.Is(err, unix.ENOKEY), errors.Is(err, unix.ENOPKG), errors.Is(err, unix.EBADMSG):
		why = "this kernel starts only kernels that carry a signature it trusts"
	case errors.Is(err, unix.ENOEXEC):
		why = "the kernel does not know this format"
	case errors.Is(err, unix.EBUSY):
		why = "another kexec call is under way"
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EADDRNOTAVAIL):
		why = "not enough memory"
	case errors.Is(err, unix.EINVAL):
		why = "refused; too little memory in one piece is the common cause"
	default:
		return fmt.Errorf("kexec_file_load: %w", err)
	}
	return fmt.Errorf("kexec_file_load: %s: %w", why, err)
}

// lockdown returns the kernel's lockdown level, "" where there is none or where
// securityfs is not mounted.
func lockdown() string {
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		return ""
	}
	_, level, ok := strings.Cut(string(b), "[")
	level, _, ok2 := strings.Cut(level, "]")
	if !ok || !ok2 || level == "none" {
		return ""
	}
	return level
}

func sysctl(name string) string {
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Loaded reports whether a kernel is loaded.
func Loaded() bool {
	b, err := os.ReadFile("/sys/kernel/kexec_loaded")
	return err == nil && strings.TrimSpace(string(b)) == "1"
}

// Unload forgets the loaded kernel, so that nothing can jump into it.
func Unload() error {
	if !Loaded() {
		return nil
	}
	if err := unix.KexecFileLoad(-1, -1, "", unix.KEXEC_FILE_UNLOAD); err != nil {
		return fmt.Errorf("unload kernel: %w", explain(err))
	}
	return nil
}
