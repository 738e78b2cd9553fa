package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const (
	plain    = unix.MS_NOSUID | unix.MS_NODEV
	strict   = plain | unix.MS_NOEXEC
	readOnly = unix.MS_RDONLY
)

// The same for bind.
const (
	plainBind    = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	readOnlyBind = plainBind | unix.MOUNT_ATTR_RDONLY
)

// enter makes the directory s.Root the root of this process and its namespace, with
// everything that belongs there.
func enter(s Setup) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := bind(s.Root, s.Root, plainBind); err != nil {
		return err
	}
	fd, err := unix.Open(s.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.Root, err)
	}
	defer unix.Close(fd)
	r := &tree{fd: fd}
	if s.Host {
		if err := r.host(s.Root); err != nil {
			return err
		}
	}
	for _, step := range []func(Setup) error{r.proc, r.sys, r.dev, r.tmp, r.resolver} {
		if err := step(s); err != nil {
			return err
		}
	}
	return r.pivot(s.Root)
}

// tree is the new root. A package made its contents, so every path in it is resolved
// without following symbolic links.
type tree struct{ fd int }

// open returns a path of what name means in the tree, valid until done is called.
func (r *tree) open(name string, flags uint64) (path string, done func(), err error) {
	fd, err := unix.Openat2(r.fd, name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return "", nil, fmt.Errorf("the package has something else than a directory at /%s", name)
	}
	if err != nil {
		return "", nil, fmt.Errorf("/%s: %w", name, err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), func() { unix.Close(fd) }, nil
}

// dir is open for a directory, which is made if need be.
func (r *tree) dir(name string) (path string, done func(), err error) {
	path, done, err = r.open(name, unix.O_DIRECTORY)
	if !errors.Is(err, unix.ENOENT) {
		return path, done, err
	}
	if parent := filepath.Dir(name); parent != "." {
		_, done, err := r.dir(parent)
		if err != nil {
			return "", nil, err
		}
		done()
	}
	if err := unix.Mkdirat(r.fd, name, 0o755); err != nil {
		return "", nil, fmt.Errorf("make /%s: %w", name, err)
	}
	return r.open(name, unix.O_DIRECTORY)
}

// mount mounts a file system at a directory of the tree.
func (r *tree) mount(fstype, name string, flags uintptr, data string) error {
	path, done, err := r.dir(name)
	if err != nil {
		return err
	}
	defer done()
	if err := unix.Mount(fstype, path, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s at /%s: %w", fstype, name, err)
	}
	return nil
}

// bind shows from at to, too, with attributes of its own.
func bind(from, to string, attributes uint64) error {
	fail := func(err error) error { return fmt.Errorf("bind %s: %w", from, err) }
	fd, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	if attributes != 0 {
		attr := unix.MountAttr{Attr_set: attributes}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return fail(err)
		}
	}
	// to may be a link in /proc/self/fd.
	flags := unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_SYMLINKS
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, to, flags); err != nil {
		return fail(err)
	}
	return nil
}

// Of /proc, what user 0 can write to even without capabilities, and what tells more
// than an app needs to know: the kernel's command line may hold the token of the chassis,
// and the agent's keys and passwords.
var (
	procReadOnly = []string{"sys", "irq", "bus", "fs", "sysrq-trigger", "asound", "mtrr"}
	procHidden   = []string{"cmdline", "bootconfig", "kcore", "keys", "key-users", "timer_list", "sched_debug", "latency_stats", "acpi", "scsi", "kallsyms", "vmallocinfo", "kpagecount", "kpageflags", "kpagecgroup", "slabinfo"}
)

func (r *tree) proc(Setup) error {
	if err := r.mount("proc", "proc", strict, ""); err != nil {
		return err
	}
	path, done, err := r.dir("proc")
	if err != nil {
		return err
	}
	defer done()
	for _, name := range procReadOnly {
		// Not every kernel has all.
		p := path + "/" + name
		if err := bind(p, p, readOnlyBind); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	for _, name := range procHidden {
		p := path + "/" + name
		st, err := os.Stat(p)
		if err != nil {
			continue
		}
		if st.IsDir() {
			err = unix.Mount("tmpfs", p, "tmpfs", strict|readOnly, "size=0,nr_inodes=2")
		} else {
			err = bind("/dev/null", p, 0)
		}
		if err != nil {
			return fmt.Errorf("hide /proc/%s: %w", name, err)
		}
	}
	return nil
}

func (r *tree) sys(s Setup) error {
	flags := uintptr(strict)
	if !s.WritableSys {
		flags |= readOnly
	}
	if err := r.mount("sysfs", "sys", flags, ""); err != nil {
		return err
	}
	const vars = "sys/firmware/efi/efivars"
	if ok, err := mountinfo.Mounted("/" + vars); err != nil || !ok {
		return nil // no UEFI
	}
	return r.mount("efivarfs", vars, flags, "")
}

// Devices that every program may expect.
var standardDevices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}

var deviceLinks = [][2]string{
	{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
	{"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"},
}

func (r *tree) dev(s Setup) error {
	if err := r.mount("tmpfs", "dev", strict, "mode=0755,size=64k,nr_inodes=1k"); err != nil {
		return err
	}
	for _, d := range append(slices.Clone(standardDevices), s.Devices...) {
		if err := r.device(d); err != nil {
			return err
		}
	}
	for _, l := range deviceLinks {
		if err := unix.Symlinkat(l[0], r.fd, l[1]); err != nil {
			return fmt.Errorf("link /%s: %w", l[1], err)
		}
	}
	if err := r.mount("tmpfs", "dev/shm", strict, "mode=1777,size=64m"); err != nil {
		return err
	}
	err := r.mount("devpts", "dev/pts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,mode=0620,ptmxmode=0666")
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// device shows one device of the machine.
func (r *tree) device(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("device: %w: is its module loaded?", err)
	}
	if st.Mode()&os.ModeDevice == 0 {
		return fmt.Errorf("device %s: it is not a device", path)
	}
	name := strings.TrimPrefix(filepath.Clean(path), "/")
	_, done, err := r.dir(filepath.Dir(name))
	if err != nil {
		return err
	}
	done()
	if err := unix.Mknodat(r.fd, name, unix.S_IFREG|0o600, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("device %s: %w", path, err)
	}
	to, done, err := r.open(name, 0)
	if err != nil {
		return err
	}
	defer done()
	return bind(path, to, 0)
}

func (r *tree) tmp(Setup) error {
	if err := r.mount("tmpfs", "tmp", plain, "mode=1777,size=25%"); err != nil {
		return err
	}
	_, done, err := r.dir("run")
	if err == nil {
		done()
	}
	return err
}

// resolver shows the machine's /etc/resolv.conf: the network is the machine's, too.
func (r *tree) resolver(Setup) error {
	const name = "etc/resolv.conf"
	if _, err := os.Stat("/" + name); err != nil {
		return nil // the machine does without
	}
	_, done, err := r.dir("etc")
	if err != nil {
		return err
	}
	done()
	if err := unix.Mknodat(r.fd, name, unix.S_IFREG|0o644, 0); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("/%s: %w", name, err)
	}
	to, done, err := r.open(name, unix.O_NOFOLLOW)
	if err != nil {
		return nil // the package has its own idea, or the machine's /etc is shown
	}
	defer done()
	return bind("/"+name, to, readOnlyBind)
}

// pivot makes the tree the root of the namespace, and lets go of the machine's mounts:
// kept, they would keep its disks busy.
func (r *tree) pivot(root string) error {
	if err := unix.Fchdir(r.fd); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	err := unix.PivotRoot(".", ".")
	if errors.Is(err, unix.EINVAL) {
		return r.move(root)
	}
	if err != nil {
		return fmt.Errorf("change root to %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the machine's root: %w", err)
	}
	return unix.Chdir("/")
}

// move is pivot for a machine that runs from its initramfs, which cannot be taken away
// from under it: the tree is put on top of it. Whoever has CAP_SYS_CHROOT gets out.
func (r *tree) move(root string) error {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to /: %w", root, err)
	}
	// Paths still lead to the machine's root, until the chroot below.
	for _, m := range slices.Backward(mounts) {
		if m.Mountpoint == "/" || m.Mountpoint == root || strings.HasPrefix(m.Mountpoint, root+"/") {
			continue
		}
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("let go of %s: %w", m.Mountpoint, err)
		}
	}
	if err := unix.Fchdir(r.fd); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root to %s: %w", root, err)
	}
	return unix.Chdir("/")
}
