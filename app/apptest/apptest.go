// Package apptest builds packages for tests, with the tools that vendors build
// theirs with.
package apptest

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/teeth-metal/teeth/internal/need"
)

// Files are what a package holds: contents by path, without a slash before. Programs
// and scripts are told by their first bytes, and can be executed.
type Files map[string][]byte

func (f Files) tree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range f {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if bytes.HasPrefix(content, []byte("\x7fELF")) || bytes.HasPrefix(content, []byte("#!")) {
			mode = 0o755
		}
		if err := os.WriteFile(path, content, mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func run(t testing.TB, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", program, args, err, out)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Deb builds a Debian package, whose script after installation leaves
// /postinst-ran if anybody runs it.
func (f Files) Deb(t testing.TB, name, version string) []byte {
	t.Helper()
	dpkg := need.Program(t, "dpkg-deb", "dpkg")
	all := maps.Clone(f)
	all["DEBIAN/control"] = fmt.Appendf(nil, "Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: T <t@example.com>\nDescription: %s\n",
		name, version, runtime.GOARCH, name)
	all["DEBIAN/postinst"] = []byte("#!/bin/sh\ntouch /postinst-ran\n")
	out := filepath.Join(t.TempDir(), "package.deb")
	run(t, dpkg, "--root-owner-group", "-Zxz", "-z1", "-b", all.tree(t), out)
	return read(t, out)
}

// RPM builds an RPM package, whose script after installation leaves /post-ran if
// anybody runs it.
func (f Files) RPM(t testing.TB, name, version string) []byte {
	t.Helper()
	rpmbuild := need.Program(t, "rpmbuild", "rpm")
	top := t.TempDir()
	spec := fmt.Sprintf("Name: %s\nVersion: %s\nRelease: 1\nSummary: %s\nLicense: MIT\n%%description\n%s\n"+
		"%%install\ncp -a %s/. %%{buildroot}/\n%%post\ntouch /post-ran\n%%files\n", name, version, name, name, f.tree(t))
	for _, path := range slices.Sorted(maps.Keys(f)) {
		spec += "/" + path + "\n"
	}
	path := filepath.Join(top, "package.spec")
	if err := os.WriteFile(path, []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, rpmbuild, "-bb", "--quiet", "--define", "_topdir "+top, "--define", "_build_id_links none",
		"--define", "__strip /bin/true", "--define", "__os_install_post %{nil}", "--define", "_binary_payload w1.zstdio", path)
	found, err := filepath.Glob(top + "/RPMS/*/*.rpm")
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return read(t, found[0])
}

// Tar builds a tar.
func (f Files) Tar(t testing.TB) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "package.tar")
	run(t, need.Program(t, "tar", "tar"), "-C", f.tree(t), "-cf", out, ".")
	return read(t, out)
}
