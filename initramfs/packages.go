package initramfs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/initramfs/apt"
	"github.com/teeth-metal/teeth/initramfs/deb"
)

// maxUnpacked bounds what a package may unpack to; Debian's kernel has 400 MB.
const maxUnpacked = 4 << 30

// packages are Debian packages, unpacked in the cache. Which version of a
// package is used is written down there too, so that builds from one cache are
// the same until they are asked to update.
type packages struct {
	dir  string // the cache
	arch string
	log  *slog.Logger

	chosen map[string]apt.Package // by the name asked for
	client *apt.Client            // nil until the network is needed
	used   map[string]apt.Package // by name, what this build took
}

const chosenFile = "packages.json"

func openPackages(dir, arch string, update bool, log *slog.Logger) (*packages, error) {
	p := &packages{dir: dir, arch: arch, log: log,
		chosen: make(map[string]apt.Package), used: make(map[string]apt.Package)}
	b, err := os.ReadFile(filepath.Join(dir, chosenFile))
	if errors.Is(err, fs.ErrNotExist) || update {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &p.chosen)
	}
	if err != nil {
		return nil, fmt.Errorf("read package cache: %w", err)
	}
	for name, pkg := range p.chosen {
		if pkg.SHA256 == "" { // known not to exist
			continue
		}
		if len(pkg.SHA256) != 64 || strings.ContainsAny(pkg.SHA256, "/.") {
			return nil, fmt.Errorf("package cache %s: %s has no valid SHA-256; remove the cache and build again", dir, name)
		}
	}
	return p, nil
}

// kernel gives the directory of the unpacked package that the meta-package
// linux-image-ARCH depends on.
func (p *packages) kernel(ctx context.Context) (apt.Package, string, error) {
	meta := "linux-image-" + p.arch
	return p.get(ctx, meta, func(m apt.Package) (string, error) {
		for _, d := range m.Depends {
			if strings.HasPrefix(d, "linux-image-") {
				return d, nil
			}
		}
		return "", fmt.Errorf("package %s %s depends on no kernel image", m.Name, m.Version)
	})
}

// get gives the package called name and the directory it is unpacked in.
// follow, if not nil, says which package to take instead of a meta-package.
func (p *packages) get(ctx context.Context, name string, follow func(apt.Package) (string, error)) (apt.Package, string, error) {
	pkg, ok := p.chosen[name]
	if ok && pkg.SHA256 == "" {
		return pkg, "", fmt.Errorf("package %s: %w", name, apt.ErrNotFound)
	}
	if ok {
		if dir := p.unpacked(pkg); dir != "" {
			p.used[pkg.Name] = pkg
			return pkg, dir, nil
		}
	}
	if err := p.connect(ctx); err != nil {
		return pkg, "", err
	}
	// Also when it was chosen before and its files are gone: the archive may
	// no longer have that version.
	pkg, err := p.client.Show(ctx, name)
	if errors.Is(err, apt.ErrNotFound) {
		p.chosen[name] = apt.Package{Name: name}
		return pkg, "", errors.Join(err, p.save())
	}
	if err != nil {
		return pkg, "", err
	}
	if follow != nil {
		next, err := follow(pkg)
		if err != nil {
			return pkg, "", err
		}
		if pkg, err = p.client.Show(ctx, next); err != nil {
			return pkg, "", err
		}
	}
	dir := p.unpacked(pkg)
	if dir == "" {
		if dir, err = p.fetch(ctx, pkg); err != nil {
			return pkg, "", err
		}
	}
	pkg.Depends = nil
	p.chosen[name], p.used[pkg.Name] = pkg, pkg
	return pkg, dir, p.save()
}

// connect prepares apt, with fresh lists, once in a build.
func (p *packages) connect(ctx context.Context) error {
	if p.client != nil {
		return nil
	}
	client, err := apt.New(filepath.Join(p.dir, "apt"), "/etc", p.arch, "non-free-firmware")
	if err != nil {
		return err
	}
	p.log.Info("apt: fetching package lists")
	if err := client.Update(ctx); err != nil {
		return err
	}
	p.client = client
	return nil
}

func (p *packages) unpackDir(pkg apt.Package) string { return filepath.Join(p.dir, "deb", pkg.SHA256) }

func (p *packages) unpacked(pkg apt.Package) string {
	dir := p.unpackDir(pkg)
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return ""
	}
	return dir
}

// fetch downloads and unpacks a package. The directory appears under its final
// name only when it is whole.
func (p *packages) fetch(ctx context.Context, pkg apt.Package) (string, error) {
	dir := p.unpackDir(pkg)
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	p.log.Info("apt: downloading", "package", pkg.Name, "version", pkg.Version, "bytes", pkg.Size)
	file, err := p.client.Download(ctx, pkg, parent)
	if err != nil {
		return "", err
	}
	defer os.Remove(file)
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	tmp, err := os.MkdirTemp(parent, "unpack-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := deb.Unpack(ctx, bufio.NewReaderSize(f, 1<<20), tmp, maxUnpacked, wantedFile); err != nil {
		return "", fmt.Errorf("package %s %s: %w", pkg.Name, pkg.Version, err)
	}
	return dir, os.Rename(tmp, dir)
}

// wantedFile says whether a file of a package can be of use to a build.
func wantedFile(name string) bool {
	name = strings.TrimPrefix(name, "usr/")
	for _, prefix := range []string{"boot/vmlinuz-", "lib/modules/", "lib/firmware/", "share/ca-certificates/mozilla/",
		stubFile, isolinuxDir, ldlinuxFile} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func (p *packages) save() error {
	b, err := json.MarshalIndent(p.chosen, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(p.dir, chosenFile, append(b, '\n'))
}

// prune removes unpacked packages of which another version was chosen since.
func (p *packages) prune() error {
	dir := filepath.Join(p.dir, "deb")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	keep := make(map[string]bool)
	for _, pkg := range p.chosen {
		keep[pkg.SHA256] = true
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// list returns what this build took, sorted by name.
func (p *packages) list() []apt.Package {
	l := []apt.Package{}
	for _, pkg := range p.used {
		l = append(l, pkg)
	}
	slices.SortFunc(l, func(a, b apt.Package) int { return strings.Compare(a.Name, b.Name) })
	return l
}

// subdir finds a directory of a package that may have merged / and /usr.
func subdir(root, name string) string {
	for _, d := range []string{filepath.Join(root, name), filepath.Join(root, "usr", name)} {
		if st, err := os.Stat(d); err == nil && st.IsDir() {
			return d
		}
	}
	return ""
}
