// Package modules loads kernel modules without kmod: by name, with their
// dependencies and soft dependencies, and by the modalias of every device the
// kernel shows, now and as they appear.
//
// It reads the text files that depmod(8) writes next to the modules, as
// described in modules.dep(5) and depmod.d(5).
package modules

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// maxIndex bounds each index file; Debian's largest, modules.alias of a full
// kernel, has 1.5 MB.
const maxIndex = 32 << 20

// Index is what is known about the modules of one kernel. It is read-only
// after Open and safe for concurrent use.
type Index struct {
	dir     string
	files   map[string]string   // module name -> file below dir
	deps    map[string][]string // module name -> modules it needs, in the order of modules.dep
	pre     map[string][]string // soft dependencies, loaded before
	post    map[string][]string // and after
	builtin map[string]bool
	aliases map[string][]alias // by bus: what precedes the first ':'
	anyBus  []alias            // patterns that have no literal bus
}

type alias struct{ pattern, module string }

// Open reads the index files below dir, which is /lib/modules/RELEASE.
// modules.dep must be there; without the others there are just no aliases, no
// soft dependencies and no built-in modules.
func Open(dir string) (*Index, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("kernel modules: %w", err)
	}
	defer root.Close()
	return read(dir, root.FS())
}

func read(dir string, fsys fs.FS) (*Index, error) {
	ix := &Index{
		dir:     dir,
		files:   map[string]string{},
		deps:    map[string][]string{},
		pre:     map[string][]string{},
		post:    map[string][]string{},
		builtin: map[string]bool{},
		aliases: map[string][]alias{},
	}
	for _, f := range []struct {
		name string
		read func(io.Reader) error
	}{
		{"modules.dep", ix.readDep},
		{"modules.builtin", ix.readBuiltin},
		{"modules.softdep", ix.readSoftdep},
		{"modules.alias", ix.readAlias},
	} {
		file, err := fsys.Open(f.name)
		if errors.Is(err, fs.ErrNotExist) && f.name != "modules.dep" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("kernel modules in %s: %w", dir, err)
		}
		err = f.read(io.LimitReader(file, maxIndex))
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("kernel modules: read %s/%s: %w", dir, f.name, err)
		}
	}
	return ix, nil
}

// Len returns how many loadable modules there are.
func (ix *Index) Len() int { return len(ix.files) }

// Lookup returns the modules that a name or a modalias stands for: the module
// of that name if there is one, else those whose alias matches, sorted and
// without those built into the kernel. None is not an error.
func (ix *Index) Lookup(name string) []string {
	name = underscores(name)
	if ix.files[name] != "" {
		return []string{name}
	}
	if ix.builtin[name] {
		return nil
	}
	var found []string
	add := func(list []alias) {
		for _, a := range list {
			if match(a.pattern, name) && ix.files[a.module] != "" {
				found = append(found, a.module)
			}
		}
	}
	if bus, _, ok := strings.Cut(name, ":"); ok {
		add(ix.aliases[bus])
	}
	add(ix.anyBus)
	slices.Sort(found)
	return slices.Compact(found)
}

// plan lists what to load for one module, in order: soft dependencies, hard
// dependencies, itself, the soft dependencies that follow it. Cycles, which
// soft dependencies are free to form, are cut where they close.
func (ix *Index) plan(module string) []string {
	var order []string
	seen := map[string]bool{}
	var visit func(string)
	visit = func(m string) {
		if seen[m] || ix.files[m] == "" {
			return
		}
		seen[m] = true
		for _, soft := range ix.pre[m] {
			for _, s := range ix.Lookup(soft) {
				visit(s)
			}
		}
		// depmod writes what must be loaded first last.
		for _, d := range slices.Backward(ix.deps[m]) {
			visit(d)
		}
		order = append(order, m)
		for _, soft := range ix.post[m] {
			for _, s := range ix.Lookup(soft) {
				visit(s)
			}
		}
	}
	visit(module)
	return order
}

// moduleName turns a file name into the module's name.
func moduleName(file string) string {
	base := path.Base(file)
	for _, ext := range []string{".gz", ".xz", ".zst"} {
		base = strings.TrimSuffix(base, ext)
	}
	return strings.ReplaceAll(strings.TrimSuffix(base, ".ko"), "-", "_")
}

func (ix *Index) readDep(r io.Reader) error {
	return eachLine(r, func(line string) error {
		file, deps, ok := strings.Cut(line, ":")
		if !ok || !fs.ValidPath(file) {
			return fmt.Errorf("line %q is not FILE: DEPENDENCIES", line)
		}
		name := moduleName(file)
		ix.files[name] = file
		for d := range strings.FieldsSeq(deps) {
			ix.deps[name] = append(ix.deps[name], moduleName(d))
		}
		return nil
	})
}

func (ix *Index) readBuiltin(r io.Reader) error {
	return eachLine(r, func(line string) error {
		ix.builtin[moduleName(line)] = true
		return nil
	})
}

func (ix *Index) readSoftdep(r io.Reader) error {
	return eachLine(r, func(line string) error {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "softdep" {
			return fmt.Errorf("line %q is not softdep MODULE …", line)
		}
		name := underscores(f[1])
		var into map[string][]string
		for _, w := range f[2:] {
			switch {
			case w == "pre:":
				into = ix.pre
			case w == "post:":
				into = ix.post
			case into != nil: // modprobe, too, ignores words before either
				into[name] = append(into[name], underscores(w))
			}
		}
		return nil
	})
}

func (ix *Index) readAlias(r io.Reader) error {
	return eachLine(r, func(line string) error {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "alias" {
			return fmt.Errorf("line %q is not alias PATTERN MODULE", line)
		}
		a := alias{underscores(f[1]), underscores(f[2])}
		bus, _, ok := strings.Cut(a.pattern, ":")
		if !ok || strings.ContainsAny(bus, `*?[\`) {
			ix.anyBus = append(ix.anyBus, a)
		} else {
			ix.aliases[bus] = append(ix.aliases[bus], a)
		}
		return nil
	})
}

// eachLine calls f for every line that is neither empty nor a comment.
func eachLine(r io.Reader, f func(string) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := f(line); err != nil {
			return err
		}
	}
	return s.Err()
}
