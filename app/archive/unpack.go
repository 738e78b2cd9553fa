package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// page is what a file of one byte takes at least.
const page = 4096

// Unpack writes all entries below root, and returns the bytes they take there, in whole
// pages. Owners, times, special modes and special files are left out. A later entry
// replaces an earlier one of the same name. No name, symbolic or hard link makes it
// write outside of root. On an error root may hold a part of the entries.
func (a *Reader) Unpack(root *os.Root) (int64, error) {
	u := unpacker{root: root, max: a.max, made: map[string]bool{".": true}}
	buf := make([]byte, 256<<10)
	for {
		if a.ctx.Err() != nil {
			return u.bytes, context.Cause(a.ctx)
		}
		e, err := a.Next()
		if err == io.EOF {
			return u.bytes, nil
		}
		if err != nil {
			return u.bytes, err
		}
		if err := u.entry(e, a, buf); err != nil {
			return u.bytes, fmt.Errorf("unpack %.200q: %w", e.Name, err)
		}
	}
}

type unpacker struct {
	root    *os.Root
	max     Bounds
	bytes   int64
	entries int
	made    map[string]bool // directories that are there
}

// take accounts for n bytes.
func (u *unpacker) take(n int64) error {
	if n < 0 || n > u.max.Bytes-u.bytes {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, u.max.Bytes)
	}
	u.bytes += n
	return nil
}

// count accounts for one entry, or a directory that has none of its own.
func (u *unpacker) count() error {
	if u.entries++; u.entries > u.max.Entries {
		return fmt.Errorf("%w: %d files", ErrTooLarge, u.max.Entries)
	}
	return nil
}

// parents makes the directory and those it is in.
func (u *unpacker) parents(dir string) error {
	if u.made[dir] {
		return nil
	}
	if err := u.parents(path.Dir(dir)); err != nil {
		return err
	}
	if st, err := u.root.Stat(dir); err != nil || !st.IsDir() {
		if err := errors.Join(u.count(), u.take(page)); err != nil {
			return err
		}
		if err := u.root.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	u.made[dir] = true
	return nil
}

func (u *unpacker) entry(e Entry, r io.Reader, buf []byte) error {
	if err := u.count(); err != nil {
		return err
	}
	if e.Kind == Dir {
		return u.dir(e)
	}
	if err := u.parents(path.Dir(e.Name)); err != nil {
		return err
	}
	if e.Kind == HardLink && e.Target == e.Name {
		return nil
	}
	if err := u.root.Remove(e.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // a directory with something in it
	}
	delete(u.made, e.Name)
	switch e.Kind {
	case Symlink:
		if err := u.take(page); err != nil {
			return err
		}
		return u.root.Symlink(e.Target, e.Name)
	case HardLink:
		st, err := u.root.Lstat(e.Target)
		if err != nil {
			return err
		}
		if !st.Mode().IsRegular() {
			return fmt.Errorf("%w: hard link to %.200q, which is not a file", ErrFormat, e.Target)
		}
		return u.root.Link(e.Target, e.Name)
	}
	return u.file(e, r, buf)
}

func (u *unpacker) dir(e Entry) error {
	if err := u.take(page); err != nil {
		return err
	}
	if err := u.parents(path.Dir(e.Name)); err != nil {
		return err
	}
	st, err := u.root.Stat(e.Name) // a link to a directory is one, as everywhere
	if err != nil || !st.IsDir() {
		if err := u.root.Remove(e.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := u.root.Mkdir(e.Name, 0o755); err != nil {
			return err
		}
	}
	u.made[e.Name] = true
	return u.root.Chmod(e.Name, e.Perm|0o700) // what follows must fit in
}

func (u *unpacker) file(e Entry, r io.Reader, buf []byte) error {
	f, err := u.root.OpenFile(e.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = u.contents(f, e, r, buf)
	if err == nil {
		err = f.Chmod(e.Perm)
	}
	return errors.Join(err, f.Close())
}

func (u *unpacker) contents(f *os.File, e Entry, r io.Reader, buf []byte) error {
	if e.Size > u.max.Bytes { // no sum, which could wrap around
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, u.max.Bytes)
	}
	if err := u.take((e.Size + page - 1) / page * page); err != nil {
		return err
	}
	var done int64
	for {
		n, err := r.Read(buf)
		if done += int64(n); done > e.Size {
			return fmt.Errorf("%w: more than the %d bytes it says", ErrFormat, e.Size)
		}
		if _, werr := f.Write(buf[:n]); werr != nil {
			return werr
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if done != e.Size {
		return fmt.Errorf("%w: %d bytes of %d", ErrFormat, done, e.Size)
	}
	return nil
}
