package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// hostDirs are what programs are linked with and configured by.
var hostDirs = []string{"bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr"}

// host shows the machine's directories read-only; what the package has of them lies on
// top.
func (r *tree) host(root string) error {
	for _, name := range hostDirs {
		if err := r.hostDir(root, name); err != nil {
			return fmt.Errorf("root: host: %w", err)
		}
	}
	return nil
}

func (r *tree) hostDir(root, name string) error {
	host, err := os.Lstat("/" + name)
	if err != nil {
		return nil // not on this machine
	}
	var st unix.Stat_t
	err = unix.Fstatat(r.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	ours := err == nil
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("/%s: %w", name, err)
	}
	switch {
	case ours && st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return nil // as /bin to usr/bin: the package is made for it
	case !ours && host.Mode()&os.ModeSymlink != 0:
		to, err := os.Readlink("/" + name)
		if err != nil {
			return err
		}
		return unix.Symlinkat(to, r.fd, name)
	}
	path, done, err := r.dir(name)
	if err != nil {
		return err
	}
	defer done()
	if !ours {
		return bind("/"+name, path, readOnlyBind)
	}
	from, err := filepath.EvalSymlinks("/" + name)
	if err != nil {
		return err
	}
	data := "lowerdir=" + filepath.Join(root, name) + ":" + from
	if err := unix.Mount("overlay", path, "overlay", plain|readOnly, data); err != nil {
		return fmt.Errorf("lay the package's /%s over the machine's: %w (the kernel needs overlayfs)", name, err)
	}
	return nil
}
