package initramfs

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/initramfs/apt"
	"github.com/teeth-metal/teeth/initramfs/kmod"
)

// firmwareSource is a directory of firmware files.
type firmwareSource struct {
	pkg string // empty for lib/firmware of one's own kernel
	dir string
}

// firmwareSources fetches the packages of the profile. One that the archive
// does not have (names differ between Debian releases) is not an error: what it
// would have held shows up as missing.
func firmwareSources(ctx context.Context, pkgs *packages, p profile, kernelDir string) ([]firmwareSource, error) {
	var src []firmwareSource
	if kernelDir != "" {
		if d := subdir(kernelDir, "lib/firmware"); d != "" {
			src = append(src, firmwareSource{"", d})
		}
	}
	for _, name := range p.firmware {
		pkg, root, err := pkgs.get(ctx, name, nil)
		if errors.Is(err, apt.ErrNotFound) {
			pkgs.log.Debug("no such firmware package", "package", name)
			continue
		}
		if err != nil {
			return nil, err
		}
		if d := subdir(root, "lib/firmware"); d != "" {
			src = append(src, firmwareSource{pkg.Name, d})
		}
	}
	return src, nil
}

// addFirmware packs the files that the modules ask for, and notes those that
// no source has.
func addFirmware(a *archive, m *Manifest, set *kmod.Set, sources []firmwareSource) error {
	for _, pattern := range set.Firmware() {
		found := false
		for _, src := range sources {
			names, err := src.match(pattern)
			if err != nil {
				return err
			}
			for _, name := range names {
				if err := src.add(a, m, name); err != nil {
					return fmt.Errorf("firmware %s of %s: %w", name, src.dir, err)
				}
			}
			if len(names) > 0 {
				found = true
				break // an earlier source wins
			}
		}
		if found {
			continue
		}
		missing := MissingFirmware{Name: pattern}
		for _, mod := range set.Modules {
			if slices.Contains(mod.Firmware, pattern) {
				missing.Modules = append(missing.Modules, mod.Name)
			}
		}
		m.FirmwareMissing = append(m.FirmwareMissing, missing)
	}
	slices.SortFunc(m.Firmware, func(x, y FirmwareFile) int { return strings.Compare(x.Name, y.Name) })
	return nil
}

// match returns the names of files, without the suffix of a compressor, that a
// firmware= line of a module means.
func (s firmwareSource) match(pattern string) ([]string, error) {
	var names []string
	for _, suffix := range []string{"", ".xz", ".zst"} {
		found, err := fs.Glob(os.DirFS(s.dir), pattern+suffix)
		if err != nil {
			return nil, fmt.Errorf("firmware pattern %q: %w", pattern, err)
		}
		for _, f := range found {
			if suffix == "" && f != pattern { // a wildcard took the suffix in
				f = strings.TrimSuffix(strings.TrimSuffix(f, ".xz"), ".zst")
			}
			names = append(names, strings.TrimSuffix(f, suffix))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// add packs the file called name and, if that is a link, what it leads to.
func (s firmwareSource) add(a *archive, m *Manifest, name string) error {
	for range 8 {
		entry := "lib/firmware/" + name
		if a.has(entry) {
			return nil
		}
		file, suffix, st, err := s.find(name)
		if err != nil {
			return err
		}
		if st.Mode().IsDir() {
			return nil // a wildcard may match one
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			content, err := kmod.ReadFile(file)
			if err != nil {
				return err
			}
			f, err := a.file(entry, content, 0o644)
			if err != nil {
				return err
			}
			f.Name = name
			m.Firmware = append(m.Firmware, FirmwareFile{File: f, Package: s.pkg})
			return nil
		}
		target, err := os.Readlink(file)
		if err != nil {
			return err
		}
		target = strings.TrimSuffix(target, suffix)
		next := path.Join(path.Dir(name), target)
		if path.IsAbs(target) || !fs.ValidPath(next) {
			return fmt.Errorf("link to %q leads out of the firmware directory", target)
		}
		if err := a.symlink(entry, target); err != nil {
			return err
		}
		m.Firmware = append(m.Firmware, FirmwareFile{File: File{Name: name}, Package: s.pkg, Target: target})
		name = next
	}
	return errors.New("too many links")
}

// find looks for a file under its name and the names compression gives it.
func (s firmwareSource) find(name string) (file, suffix string, st fs.FileInfo, err error) {
	for _, suffix = range []string{"", ".xz", ".zst"} {
		file = filepath.Join(s.dir, name) + suffix
		if st, err = os.Lstat(file); err == nil {
			break
		}
	}
	return file, suffix, st, err
}

// addCertificates packs Mozilla's roots, as Debian has them, as the one bundle
// that crypto/x509 looks for first.
func addCertificates(ctx context.Context, a *archive, pkgs *packages) error {
	pkg, root, err := pkgs.get(ctx, "ca-certificates", nil)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(root, "usr/share/ca-certificates/mozilla/*.crt"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("package %s %s: no certificates in it", pkg.Name, pkg.Version)
	}
	slices.Sort(files)
	var bundle bytes.Buffer
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		block, _ := pem.Decode(b)
		if block == nil || block.Type != "CERTIFICATE" {
			return fmt.Errorf("package %s %s: %s is no PEM certificate", pkg.Name, pkg.Version, filepath.Base(name))
		}
		if err := pem.Encode(&bundle, block); err != nil {
			return err
		}
	}
	_, err = a.file("etc/ssl/certs/ca-certificates.crt", bundle.Bytes(), 0o644)
	return err
}
