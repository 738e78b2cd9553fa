package kmod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Module is one module file of a Tree.
type Module struct {
	Info
	File string // below the tree's directory, as it is on disk
}

// Path is where the module belongs below lib/modules/VERSION, without the
// suffix of a compressor.
func (m *Module) Path() string { return uncompressed(m.File) }

// Tree is a directory of modules of one kernel version: lib/modules/VERSION.
type Tree struct {
	Dir     string             // where it is
	Version string             // kernel release, `uname -r`
	Modules map[string]*Module // by canonical name

	builtin      []string            // lines of modules.builtin
	builtinNames map[string]struct{} // and aliases, canonical
	aliases      map[string][]string // exact, canonical alias: names of modules
}

// Open reads dir, a lib/modules/VERSION directory with its modules.builtin.
func Open(ctx context.Context, dir string) (*Tree, error) {
	var files []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type().IsRegular() && path.Ext(uncompressed(p)) == ".ko" {
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			files = append(files, filepath.ToSlash(rel))
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read kernel modules: %w", err)
	}
	modules := make([]Module, len(files))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, file := range files {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			info, err := readFileInfo(filepath.Join(dir, file))
			modules[i] = Module{Info: info, File: file}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return newTree(dir, modules)
}

// readFileInfo reads of an uncompressed file no more than it must: a kernel
// package holds 400 MB of modules.
func readFileInfo(name string) (Info, error) {
	var r io.ReaderAt
	if uncompressed(name) == name {
		f, err := os.Open(name)
		if err != nil {
			return Info{}, err
		}
		defer f.Close()
		r = f
	} else {
		b, err := ReadFile(name)
		if err != nil {
			return Info{}, err
		}
		r = bytes.NewReader(b)
	}
	info, err := ReadInfo(r)
	if err != nil {
		return info, fmt.Errorf("%s: %w", name, err)
	}
	return info, nil
}

func newTree(dir string, modules []Module) (*Tree, error) {
	t := &Tree{
		Dir:          dir,
		Version:      filepath.Base(dir),
		Modules:      make(map[string]*Module, len(modules)),
		builtinNames: make(map[string]struct{}),
		aliases:      make(map[string][]string),
	}
	for i := range modules {
		m := &modules[i]
		if !validWord(m.File) || !fs.ValidPath(m.File) {
			return nil, fmt.Errorf("module %q in %s: not a path that can be indexed", m.File, dir)
		}
		if m.Name == "" {
			m.Name = canonical(strings.TrimSuffix(path.Base(m.Path()), ".ko"))
		}
		if !validName(m.Name) {
			return nil, fmt.Errorf("module %s in %s: %q is not a module name", m.File, dir, m.Name)
		}
		if other := t.Modules[m.Name]; other != nil {
			// depmod's default search order: updates/ overrides.
			if strings.HasPrefix(other.File, "updates/") || !strings.HasPrefix(m.File, "updates/") {
				continue
			}
		}
		t.Modules[m.Name] = m
	}
	for _, name := range slices.Sorted(maps.Keys(t.Modules)) {
		for _, a := range t.Modules[name].Alias {
			t.aliases[canonical(a)] = append(t.aliases[canonical(a)], name)
		}
	}
	return t, t.readBuiltin()
}

// readBuiltin reads what is part of the kernel image: modules.builtin, and
// modules.builtin.modinfo for the aliases, which kernels before 5.2 lack.
func (t *Tree) readBuiltin() error {
	b, err := os.ReadFile(filepath.Join(t.Dir, "modules.builtin"))
	if err != nil {
		return fmt.Errorf("modules of kernel %s: %w", t.Version, err)
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if !validWord(line) || !fs.ValidPath(line) {
			return fmt.Errorf("%s/modules.builtin: %q is not a path", t.Dir, line)
		}
		t.builtin = append(t.builtin, line)
		t.builtinNames[canonical(strings.TrimSuffix(path.Base(line), ".ko"))] = struct{}{}
	}
	b, err = os.ReadFile(filepath.Join(t.Dir, "modules.builtin.modinfo"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("modules of kernel %s: %w", t.Version, err)
	}
	for field := range strings.SplitSeq(string(b), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		if strings.HasSuffix(key, ".alias") {
			t.builtinNames[canonical(value)] = struct{}{}
		}
	}
	return nil
}
