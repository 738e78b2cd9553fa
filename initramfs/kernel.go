package initramfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/teeth-metal/teeth/initramfs/kmod"
)

// findKernel finds the one kernel image and the one tree of modules in a
// directory laid out as Debian's package, or as `make install modules_install`
// with INSTALL_PATH=DIR or DIR/boot.
func findKernel(dir string) (image, modules string, err error) {
	version := ""
	if lib := subdir(dir, "lib/modules"); lib != "" {
		entries, err := os.ReadDir(lib)
		if err != nil {
			return "", "", err
		}
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			if version != "" {
				return "", "", fmt.Errorf("%s has the modules of %s and of %s: leave one", dir, version, e.Name())
			}
			version = e.Name()
			modules = filepath.Join(lib, version)
		}
	}
	if version == "" {
		return "", "", fmt.Errorf("kernel directory %s: no lib/modules/VERSION", dir)
	}
	if strings.ContainsFunc(version, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", "", fmt.Errorf("kernel directory %s: %q is not a kernel version", dir, version)
	}
	candidates := []string{"vmlinuz-" + version, "boot/vmlinuz-" + version, "vmlinuz", "boot/vmlinuz"}
	for _, c := range candidates {
		file := filepath.Join(dir, c)
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() {
			return file, modules, nil
		}
	}
	return "", "", fmt.Errorf("kernel directory %s: no %s", dir, strings.Join(candidates, ", no "))
}

// addModules packs the modules of the profile and their index files.
func addModules(ctx context.Context, a *archive, m *Manifest, tree *kmod.Tree, p profile) (*kmod.Set, error) {
	set, err := tree.Select(p.modules, p.patterns)
	if err != nil {
		return nil, err
	}
	if len(set.Modules) == 0 {
		return nil, fmt.Errorf("kernel %s in %s: no module of profile %s", tree.Version, tree.Dir, m.Profile)
	}
	base := "lib/modules/" + tree.Version + "/"
	for _, mod := range set.Modules {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		content, err := kmod.ReadFile(filepath.Join(tree.Dir, mod.File))
		if err != nil {
			return nil, err
		}
		f, err := a.file(base+mod.Path(), content, 0o644)
		if err != nil {
			return nil, err
		}
		f.Name = mod.Path()
		m.Modules = append(m.Modules, ModuleFile{File: f, Module: mod.Name, Version: mod.Version})
	}
	m.ModulesMissing = append(m.ModulesMissing, set.Missing...)
	for name, content := range map[string][]byte{
		"modules.dep":     set.Dep(),
		"modules.alias":   set.Alias(),
		"modules.softdep": set.Softdep(),
		"modules.builtin": set.Builtin(),
	} {
		if _, err := a.file(base+name, content, 0o644); err != nil {
			return nil, err
		}
	}
	return set, nil
}
