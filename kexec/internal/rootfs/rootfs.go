// Package rootfs reads a mounted file system that nobody vouches for: a path or
// a symbolic link in it never leads out of it, only plain files and directories
// are opened, and every read has a limit.
package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxNames is how many entries Names reads of one directory.
const MaxNames = 1024

// FS is the tree below one directory, with symbolic links resolved as if that
// directory were "/" (openat2 with RESOLVE_IN_ROOT, Linux 5.6).
type FS struct{ dir *os.File }

// Open returns the tree below dir. Close releases it.
func Open(dir string) (*FS, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return &FS{os.NewFile(uintptr(fd), dir)}, nil
}

// Close releases the directory; files opened from it stay open.
func (f *FS) Close() error { return f.dir.Close() }

// Open implements fs.FS.
func (f *FS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	// O_NONBLOCK: opening a FIFO must not wait for its writer.
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	var fd int
	var err error
	for {
		// EAGAIN means that a rename elsewhere raced with the walk.
		fd, err = unix.Openat2(int(f.dir.Fd()), name, &how)
		if err != unix.EINTR && err != unix.EAGAIN {
			break
		}
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if t := st.Mode & unix.S_IFMT; t != unix.S_IFREG && t != unix.S_IFDIR {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("neither a plain file nor a directory")}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Clean makes of a path as a boot loader writes it ("/boot//vmlinuz", also with
// backslashes as EFI does) one that fs.FS takes. It never leads above the root.
func Clean(name string) string {
	name = path.Clean("/" + strings.ReplaceAll(name, `\`, "/"))
	if name == "/" {
		return "."
	}
	return name[1:]
}

// ReadFile returns the content of name, an error if it is larger than limit
// bytes or not a plain file.
func ReadFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a plain file", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, limit)
	}
	return b, nil
}

// Size returns the size of the plain file name in bytes.
func Size(fsys fs.FS, name string) (int64, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !st.Mode().IsRegular() {
		return 0, fmt.Errorf("%s: not a plain file", name)
	}
	return st.Size(), nil
}

// IsDir reports whether name is a directory.
func IsDir(fsys fs.FS, name string) bool {
	f, err := fsys.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.Stat()
	return err == nil && st.IsDir()
}

// Names returns the names in directory dir, in no order. More than MaxNames of
// them is an error: no boot loader's directory has so many.
func Names(fsys fs.FS, dir string) ([]string, error) {
	f, err := fsys.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, ok := f.(fs.ReadDirFile)
	if !ok {
		return nil, fmt.Errorf("%s: not a directory", dir)
	}
	entries, err := d.ReadDir(MaxNames + 1)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read directory %s: %w", dir, err)
	}
	if len(entries) > MaxNames {
		return nil, fmt.Errorf("directory %s: more than %d entries", dir, MaxNames)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}
