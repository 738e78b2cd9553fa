package kexec

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"vmlinuz": "kernel", "a.cpio": "aaa", "b.cpio": "b", "empty": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	target, err := Files(in("vmlinuz"), []string{in("a.cpio"), in("b.cpio")}, "quiet")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range append([]piece{target.kernel}, target.initrds...) {
		r, f, _, err := p.open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(b))
	}
	if want := []string{"kernel", "aaa", "b"}; !slices.Equal(got, want) || target.Cmdline != "quiet" {
		t.Errorf("%q, %q", got, target.Cmdline)
	}
	if err := target.Close(); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"absent", "empty", "."} {
		if _, err := Files(in(bad), nil, ""); err == nil {
			t.Errorf("kernel %s was taken", bad)
		}
	}
	if _, err := Files(in("vmlinuz"), []string{in("absent")}, ""); err == nil {
		t.Error("an initrd that is not there was taken")
	}
}
