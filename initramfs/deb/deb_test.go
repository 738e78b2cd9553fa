package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/teeth-metal/teeth/internal/ar"
)

// arOf returns an ar archive of name, content pairs.
func arOf(members ...string) []byte {
	var b bytes.Buffer
	b.WriteString(ar.Magic)
	for i := 0; i < len(members); i += 2 {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", members[i], 0, 0, 0, "100644", len(members[i+1]), members[i+1])
		if len(members[i+1])%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func tarball(t testing.TB, headers ...tar.Header) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := h.PAXRecords["content"]
		h.PAXRecords = nil
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func file(name, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o4755, PAXRecords: map[string]string{"content": content}}
}

func debOf(data string) []byte {
	return arOf("debian-binary", "2.0\n", "control.tar.xz", "odd", "data.tar", data)
}

func unpack(t testing.TB, b []byte, dir string, limit int64, keep func(string) bool) error {
	t.Helper()
	return Unpack(context.Background(), bytes.NewReader(b), dir, limit, keep)
}

func gz(t *testing.T, s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zst(t *testing.T, s string) string {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(w.EncodeAll([]byte(s), nil))
}

func TestUnpack(t *testing.T) {
	data := tarball(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "./lib/", Mode: 0o755},
		file("./lib/firmware/a.bin", "content of a"),
		tar.Header{Typeflag: tar.TypeSymlink, Name: "./lib/firmware/b.bin", Linkname: "a.bin"},
		tar.Header{Typeflag: tar.TypeLink, Name: "./lib/firmware/c.bin", Linkname: "./lib/firmware/a.bin"},
		file("./usr/share/doc/readme", "not wanted"),
		tar.Header{Typeflag: tar.TypeChar, Name: "./lib/tty", Devmajor: 5},
	)
	for _, comp := range []struct{ suffix, data string }{
		{"", data}, {".gz", gz(t, data)}, {".zst", zst(t, data)},
	} {
		t.Run("data.tar"+comp.suffix, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "x")
			b := arOf("debian-binary", "2.0\n", "control.tar.xz", "odd", "data.tar"+comp.suffix, comp.data)
			if err := unpack(t, b, dir, 1<<20, func(name string) bool { return strings.HasPrefix(name, "lib/") }); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"a.bin", "b.bin", "c.bin"} {
				got, err := os.ReadFile(filepath.Join(dir, "lib/firmware", name))
				if err != nil || string(got) != "content of a" {
					t.Errorf("%s = %q, %v", name, got, err)
				}
			}
			st, err := os.Stat(filepath.Join(dir, "lib/firmware/a.bin"))
			if err != nil {
				t.Fatal(err)
			}
			if st.Mode()&(fs.ModeSetuid|0o111) != 0 {
				t.Errorf("a.bin has mode %v: special modes must not be taken", st.Mode())
			}
			for _, name := range []string{"usr", "lib/tty"} {
				if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
					t.Errorf("%s was unpacked", name)
				}
			}
		})
	}
}

func TestUnpackRefuses(t *testing.T) {
	tests := []struct {
		name, want string
		deb        []byte
	}{
		{"empty", "not a Debian package", nil},
		{"no ar", "no ar archive", []byte("PK\x03\x04 and more")},
		{"other ar", "not debian-binary", arOf("file.o", "x")},
		{"no data", "no data.tar member", arOf("debian-binary", "2.0\n")},
		{"member cut", "member control.tar.xz", []byte(string(arOf("debian-binary", "2.0\n")) + fmt.Sprintf("%-48s%-10d`\n", "control.tar.xz", 9999))},
		{"negative size", "size", []byte(ar.Magic + fmt.Sprintf("%-48s%-10s`\n", "debian-binary", "-4"))},
		{"unknown compressor", "unknown compression", arOf("debian-binary", "2.0\n", "data.tar.rar", "x")},
		{"data cut", "unexpected EOF", debOf(tarball(t, file("a", strings.Repeat("x", 5000)))[:3000])},
		{"parent directory", "outside of its root", debOf(tarball(t, file("../evil", "x")))},
		{"absolute", "outside of its root", debOf(tarball(t, file("/evil", "x")))},
		{"through a link", "escapes", debOf(tarball(t,
			tar.Header{Typeflag: tar.TypeSymlink, Name: "out", Linkname: "../../"}, file("out/evil", "x")))},
		{"hard link out", "unpack", debOf(tarball(t, tar.Header{Typeflag: tar.TypeLink, Name: "passwd", Linkname: "../../../etc/passwd"}))},
		{"twice", "exists", debOf(tarball(t, file("a", "1"), file("a", "2")))},
		{"too much", "larger than expected", debOf(tarball(t, file("a", strings.Repeat("x", 1<<17))))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			top := t.TempDir()
			err := unpack(t, tt.deb, filepath.Join(top, "d/x"), 1<<16, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Unpack: %v, want an error with %q", err, tt.want)
			}
			if found, _ := filepath.Glob(filepath.Join(top, "*vil")); len(found) > 0 {
				t.Errorf("Unpack wrote %q outside of its directory", found)
			}
		})
	}
}

func TestUnpackCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Unpack(ctx, bytes.NewReader(debOf(tarball(t, file("a", "x")))), t.TempDir(), 1<<20, nil); err == nil {
		t.Error("Unpack went on after its context was cancelled")
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(debOf(tarball(f, file("lib/a", "x"), tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "lib"}, file("l/b", "y"))))
	f.Add(arOf("debian-binary", "2.0\n", "data.tar.xz", "\xfd7zXZ\x00"))
	f.Add(arOf("debian-binary", "2.0\n", "data.tar.zst", "\x28\xb5\x2f\xfd"))
	f.Fuzz(func(t *testing.T, b []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "a/b")
		_ = unpack(t, b, dir, 1<<16, nil)
		// Whatever it did, it did below dir.
		err := filepath.WalkDir(top, func(p string, _ fs.DirEntry, err error) error {
			if err == nil && !strings.HasPrefix(dir, p) && !strings.HasPrefix(p, dir) {
				t.Errorf("Unpack wrote %s, outside of %s", p, dir)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
