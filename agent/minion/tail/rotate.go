package tail

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// rotationName is what stands behind a log file's name when it was rotated: a number
// (log.1) or a date (log-20240131).
var rotationName = regexp.MustCompile(`^(\.[0-9]{1,4}|[.-][0-9]{4}-?[0-9]{2}-?[0-9]{2}[0-9T:._-]*)$`)

// maxSiblings bounds how many files of a folder are looked at.
const maxSiblings = 10000

// sibling is a file that was at the path once.
type sibling struct {
	path string
	id   identity
	info fs.FileInfo
}

// siblings returns the rotated files beside the path, the oldest first.
func (w *follower) siblings() ([]sibling, error) {
	dir, base := filepath.Split(w.Path)
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxSiblings)
	if err != nil && len(names) == 0 {
		return nil, nil // io.EOF: there are none
	}
	var all []sibling
	for _, name := range names {
		suffix, ok := strings.CutPrefix(name, base)
		if !ok || !rotationName.MatchString(suffix) {
			continue
		}
		path := filepath.Join(dir, name)
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
			all = append(all, sibling{path, identityOf(info), info})
		}
	}
	slices.SortFunc(all, func(a, b sibling) int {
		byName := cmp.Compare(a.path, b.path)
		if len(a.path)-len(w.Path) < 6 { // log.2 is older than log.1
			byName = cmp.Or(cmp.Compare(len(b.path), len(a.path)), -byName)
		}
		return cmp.Or(a.info.ModTime().Compare(b.info.ModTime()), byName)
	})
	return all, nil
}

// find returns the file that was read up to a position: the one at the path, which
// may be nil, or one that was rotated away. It closes current unless it is that.
func (w *follower) find(current *os.File, at position) (*os.File, error) {
	if current != nil {
		if info, err := current.Stat(); err == nil && (identity{at.Device, at.Inode}) == identityOf(info) && isThat(current, info, at) {
			return current, nil
		}
		defer current.Close()
	}
	all, err := w.siblings()
	if err != nil {
		return nil, err
	}
	// By inode at first; a copy has another.
	for _, sameInode := range []bool{true, false} {
		for _, s := range all {
			if (s.id == identity{at.Device, at.Inode}) != sameInode || !sameInode && (at.Bytes == 0 || s.info.ModTime().UnixNano() < at.Modified) {
				continue
			}
			f, err := open(s.path)
			if err != nil {
				continue // gone meanwhile
			}
			if info, err := f.Stat(); err == nil && isThat(f, info, at) {
				return f, nil
			}
			f.Close()
		}
	}
	return nil, nil
}

// isThat reports whether f begins as the file that was read up to a position, and is
// as long.
func isThat(f *os.File, info fs.FileInfo, at position) bool {
	if info.Size() < at.Offset {
		return false
	}
	head, err := headOf(f, at.Bytes)
	digest := sha256.Sum256(head)
	return err == nil && len(head) == at.Bytes && bytes.Equal(digest[:], at.Head)
}

// changed deals with a file that is not what it was: truncated, and perhaps written
// anew since.
func (w *follower) changed(ctx context.Context) error {
	info, err := w.f.Stat()
	if err != nil {
		return err
	}
	head, err := headOf(w.f, len(w.head))
	if err != nil {
		return err
	}
	if info.Size() >= w.off && bytes.Equal(head, w.head) {
		w.modified = info.ModTime().UnixNano()
		return nil
	}
	// copytruncate: what had not been read yet is in the copy.
	digest := sha256.Sum256(w.head)
	rest, err := w.find(nil, position{Offset: w.off, Head: digest[:], Bytes: len(w.head), Modified: w.modified})
	if err != nil {
		return err
	}
	if rest != nil {
		defer rest.Close()
		if err := w.copyRest(ctx, rest); err != nil {
			return err
		}
	} else {
		w.log.Info("log file was truncated, reading it from its beginning")
	}
	if err := w.leave(ctx); err != nil {
		return err
	}
	w.off, w.head, w.quiet = 0, nil, false
	return w.note()
}

// copyRest hands on what a truncated file's copy has beyond what was read.
func (w *follower) copyRest(ctx context.Context, copied *os.File) error {
	buf := make([]byte, readSize)
	for off := w.off; ; {
		n, err := copied.ReadAt(buf, off)
		off += int64(n)
		if err := w.lines(ctx, buf[:n]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// rotated returns the file to go on with, if the one that was read to its end is not
// the one at the path any more. Its writer may still add to it, until it has opened
// the new one: it gets one more look.
func (w *follower) rotated(ctx context.Context) (*os.File, error) {
	info, err := os.Stat(w.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, w.gone(ctx)
	}
	if err != nil {
		return nil, err
	}
	if identityOf(info) == w.id {
		w.quiet, w.removed = false, time.Time{}
		return nil, nil
	}
	if !w.quiet {
		w.quiet = true
		return nil, nil
	}
	own, err := w.f.Stat()
	if err != nil {
		return nil, err
	}
	all, err := w.siblings()
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		if slices.Contains(w.passed, s.id) || s.id == w.id || s.id == identityOf(info) || s.info.ModTime().Before(own.ModTime()) {
			continue
		}
		f, err := open(s.path)
		if err != nil {
			continue // gone meanwhile
		}
		// One that begins as this one does is a copy of it; of one that was empty, so is the copy.
		if head, err := headOf(f, len(w.head)); err == nil && (len(w.head) == 0 || len(head) > 0 && !bytes.Equal(head, w.head)) {
			w.passed = append(w.passed, w.id)
			return f, nil
		}
		f.Close()
	}
	f, err := open(w.Path)
	if err != nil {
		return nil, ignoreAbsent(err)
	}
	w.passed = []identity{w.id} // its writer may have been the last of all to write
	return f, nil
}

// gone closes a file that was removed, as it takes room on the disk as long as it is
// open. One that has another name may still be written to. What appears at the path
// is read from its beginning.
func (w *follower) gone(ctx context.Context) error {
	info, err := w.f.Stat()
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 0 {
		return nil
	}
	if w.removed.IsZero() {
		w.removed = time.Now()
	}
	if time.Since(w.removed) >= abandoned {
		if err := w.leave(ctx); err != nil {
			return err
		}
		w.close()
	}
	return nil
}
